"""Making and upgrading a file without an engine, and asking for its version without changing anything."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from signal_ledger import SchemaError, SchemaVersion, lite, migrate, open_ledger, schema_version
from signal_ledger_adapters.sqlite.migrate import migrations
from tests.sqlite.test_opening import make_old, schema_of

NEWEST = migrations()[-1].version


def files_in(folder):
    """What lies in a folder: the names, and what each file holds."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def asked(path):
    """The version of a file's schema; nothing may have changed."""
    before = files_in(path.parent)
    version = await schema_version(f"sqlite:///{path}")
    assert files_in(path.parent) == before
    return version


async def test_migrating_makes_a_file_as_an_engine_does(path):
    assert await migrate(f"sqlite:///{path}") == NEWEST
    by_an_engine = path.with_name("engine.db")
    async with lite(f"sqlite:///{by_an_engine}", queues={}):
        pass
    assert schema_of(path) == schema_of(by_an_engine)
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        assert (await ledger.verify()).ok


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
async def test_migrating_upgrades_an_old_file_and_is_repeatable(path, version):
    make_old(path, version)
    assert await asked(path) == SchemaVersion(installed=version, newest=NEWEST)
    for _ in range(2):
        assert await migrate(f"sqlite:///{path}") == NEWEST
    assert (await asked(path)).is_current


async def test_a_file_can_be_migrated_by_several_at_once_and_beside_an_engine(path):
    url = f"sqlite:///{path}"
    assert await asyncio.gather(*[migrate(url) for _ in range(4)]) == [NEWEST] * 4
    async with lite(url, queues={}):
        assert await migrate(url) == NEWEST


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"schema": "audit"},
            "schema: expected 'signal_ledger' for a SQLite file, where it means nothing, got 'audit'",
        ),
        (
            {"oban_prefix": "jobs"},
            "oban_prefix: expected 'public' for a SQLite file, where it means nothing, got 'jobs'",
        ),
        ({"testing": True}, "testing: expected False for a SQLite file, where it means nothing, got True"),
    ],
)
async def test_options_of_postgres_are_refused_for_a_file(path, options, message):
    with pytest.raises(ValueError) as refused:
        await migrate(f"sqlite:///{path}", **options)
    assert str(refused.value) == message
    assert not path.exists()


async def test_a_schema_is_refused_for_a_file(path):
    with pytest.raises(ValueError, match="schema: expected None for a SQLite file, where it means nothing, got 'a'"):
        await schema_version(f"sqlite:///{path}", schema="a")


async def test_a_file_that_cannot_serve_is_not_migrated(tmp_path):
    with pytest.raises(SchemaError, match="expected a file in a folder that exists"):
        await migrate(f"sqlite:///{tmp_path}/nowhere/signals.db")
    diary = tmp_path / "diary.db"
    diary.write_text("Dear diary, " * 1000)
    for ask in (migrate, schema_version):
        with pytest.raises(SchemaError, match="is no SQLite database; nothing was changed"):
            await ask(f"sqlite:///{diary}")


async def test_a_file_without_a_ledger_has_no_version(path):
    nothing = SchemaVersion(installed=None, newest=NEWEST)
    assert await asked(path) == nothing
    assert not path.exists()
    path.touch()
    assert await asked(path) == nothing
    sqlite3.connect(path).execute("CREATE TABLE orders (id)").connection.close()
    assert await asked(path) == nothing
    assert not nothing.is_current


async def test_a_newer_file_has_a_version_and_is_not_current(path):
    await migrate(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO signal_ledger_schema (version, name, checksum) VALUES (?, 'x', 'y')", (NEWEST + 1,))
    connection.commit()
    connection.close()
    found = await asked(path)
    assert (found.installed, found.is_current) == (NEWEST + 1, False)
    with pytest.raises(SchemaError, match="upgrade signal-ledger"):
        await migrate(f"sqlite:///{path}")


async def test_the_version_of_a_file_in_use_is_that_of_its_last_commit(path):
    """Which is in the log beside it, and not in the file yet."""
    make_old(path, 1)
    writing = sqlite3.connect(path)
    writing.execute("INSERT INTO signal_ledger_schema VALUES (2, 'x', 'y', 'then')")
    assert (await schema_version(f"sqlite:///{path}")).installed == 1
    writing.commit()
    assert (await schema_version(f"sqlite:///{path}")).installed == 2
    writing.close()


def test_the_version_can_be_asked_for_where_nothing_may_be_written():
    """In a process without privileges, since root may write everything."""
    script = """
import asyncio, os, sys
from signal_ledger import SchemaError, schema_version

# Loads everything, which an unprivileged user may not be able to read.
asyncio.run(schema_version(f"sqlite:///{sys.argv[1]}/none.db"))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(asyncio.run(schema_version(f"sqlite:///{sys.argv[1]}/signals.db")).is_current)
try:
    asyncio.run(schema_version(f"sqlite:///{sys.argv[1]}/hidden/signals.db"))
except SchemaError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        asyncio.run(migrate(f"sqlite:///{folder}/signals.db"))
        (folder / "hidden").mkdir(mode=0o000 if os.geteuid() else 0o700)
        (folder / "signals.db").chmod(0o444)
        folder.chmod(0o555)
        before = sorted(folder.iterdir())
        done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False)
        folder.chmod(0o755)
        (folder / "hidden").chmod(0o755)
        assert sorted(folder.iterdir()) == before
    assert done.stdout.splitlines()[0] == "True", done.stderr
    assert f"{folder}/hidden/signals.db cannot be used: [Errno 13] Permission denied" in done.stdout


async def test_a_log_that_was_left_behind_is_read_and_left_there(path):
    """A killed process leaves it. Who closes the file as the last one of those that may write would write it back."""
    make_old(path, 1)
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO signal_ledger_schema VALUES (2, 'x', 'y', 'then')")
connection.commit()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script, path], check=True)
    log = path.with_name(f"{path.name}-wal")
    before = path.read_bytes(), log.read_bytes()
    assert (await schema_version(f"sqlite:///{path}")).installed == 2
    assert (path.read_bytes(), log.read_bytes()) == before


async def test_asking_for_the_version_keeps_this_processs_locks(path):
    """Closing a file that was opened past SQLite drops them, and two programs write at once."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writing:
        writing.execute("CREATE TABLE orders (id)")
        writing.execute("BEGIN IMMEDIATE")
        assert (await schema_version(f"sqlite:///{path}")).installed is None
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr
