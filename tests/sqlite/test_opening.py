"""Opening a file: pragmas that are read back, upgrades in a transaction, one clear sentence for each refusal."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from signal_ledger import SchemaError, lite, open_ledger
from signal_ledger_adapters.sqlite import connection as connections
from signal_ledger_adapters.sqlite.connection import connect, create_engine, to_path
from signal_ledger_adapters.sqlite.migrate import Migration, migrate, migrations
from signal_ledger_adapters.sqlite.store import SqliteStore


def clock():
    return datetime(2026, 1, 1, tzinfo=UTC)


def make_old(path, version):
    """A file as an earlier version of the library left it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(
        "CREATE TABLE signal_ledger_schema (version INTEGER PRIMARY KEY, name TEXT, checksum TEXT, applied_at TEXT)"
    )
    for step in migrations()[:version]:
        connection.executescript(step.sql)
        connection.execute(
            "INSERT INTO signal_ledger_schema VALUES (?, ?, ?, 'then')", (step.version, step.name, step.checksum)
        )
    connection.close()


def schema_of(path):
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND name <> 'signal_ledger_schema'"
    ).fetchall()
    connection.close()
    return {name: re.sub(r"\s+", " ", sql or "") for name, sql in rows}


async def test_d1_every_connection_syncs_its_commits_and_says_so(bench):
    writer = bench.store._writing._connection
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    async with bench.store._engine.connect() as connection:
        assert (await connection.exec_driver_sql("PRAGMA synchronous")).scalar() == 2


def test_d1_a_connection_that_would_not_sync_is_refused(path, monkeypatch):
    monkeypatch.setattr(connections, "_FULL", 3)
    with pytest.raises(SchemaError, match=r"expected synchronous = FULL \(3\), found \(2,\)"):
        connect(path)


async def test_a_file_system_without_write_ahead_logging_is_refused(path, monkeypatch):
    class Connection(sqlite3.Connection):
        def cursor(self):
            cursor = super().cursor()

            class Cursor:
                def execute(self, sql):
                    cursor.execute("SELECT 'delete'" if "journal_mode" in sql else sql)

                def fetchone(self):
                    return cursor.fetchone()

                def close(self):
                    cursor.close()

            return Cursor()

    connect_as_ever = sqlite3.connect
    monkeypatch.setattr(
        connections.sqlite3, "connect", lambda *args, **options: connect_as_ever(*args, **options, factory=Connection)
    )
    with pytest.raises(SchemaError, match="expected a file system that can do write-ahead logging"):
        connect(path)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5])
async def test_an_old_file_is_upgraded_and_keeps_what_it_holds(path, version):
    make_old(path, version)
    fresh = path.with_name("fresh.db")
    for file in (path, fresh):
        store = await SqliteStore.open(file, clock=clock, create=True)
        await store.close()
    assert schema_of(path) == schema_of(fresh)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version FROM signal_ledger_schema").fetchall() == [
        (number,) for number in range(1, 7)
    ]
    connection.close()


async def test_an_upgrade_is_one_transaction(path):
    make_old(path, 1)
    broken = [*migrations()[:1], Migration(version=2, name="0002_x.sql", sql="CREATE TABLE a (b);\nNONSENSE;\n")]
    writer = connect(path)
    engine = create_engine(path, read_only=False)
    before = schema_of(path)
    with pytest.raises(SchemaError, match="cannot be used: near"):
        await migrate(engine, path, broken)
    await engine.dispose()
    writer.close()
    assert schema_of(path) == before


async def test_processes_that_open_a_new_file_together_make_one_schema(path):
    script = (
        "import asyncio, sys\n"
        "from signal_ledger import lite\n"
        "async def main():\n"
        "    async with lite(f'sqlite:///{sys.argv[1]}', queues={}): pass\n"
        "asyncio.run(main())\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(path), stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()


async def refusal(path, *, read_only=False, create=True):
    with pytest.raises(SchemaError) as refused:
        await SqliteStore.open(path, clock=clock, create=create, read_only=read_only)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


async def test_a_newer_file_is_refused_and_left_alone(path):
    make_old(path, 6)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO signal_ledger_schema VALUES (7, '0007_future.sql', 'x', 'later')")
    connection.commit()
    connection.close()
    for read_only in (False, True):
        message = await refusal(path, read_only=read_only)
        assert "has schema version 7, newer than 6, which this library knows; upgrade signal-ledger" in message
    assert "newer than 6" in await refusal(path, create=False)


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(path, read_only):
    path.write_bytes(b"Dear diary, " * 1000)
    assert "is no SQLite database; nothing was changed" in await refusal(path, read_only=read_only)
    assert path.read_bytes() == b"Dear diary, " * 1000


async def test_a_damaged_file_is_refused(path):
    store = await SqliteStore.open(path, clock=clock, create=True)
    await store.close()
    data = bytearray(path.read_bytes())
    data[100:4096] = os.urandom(3996)
    path.write_bytes(data)
    assert "damaged" in await refusal(path) or "cannot be used" in await refusal(path)


async def test_a_locked_file_is_refused_after_a_while(path, monkeypatch):
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_S", 0.05)
    store = await SqliteStore.open(path, clock=clock, create=True)
    await store.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "is locked by another program for more than 0.05 s; close it there and try again" in await refusal(path)
    other.execute("ROLLBACK")
    other.close()


async def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    path = tmp_path / "nowhere" / "signals.db"
    assert "cannot be opened: expected a file in a folder that exists and can be written" in await refusal(path)
    assert "does not exist; lite(url) makes a ledger in it" in await refusal(path, create=False)


def test_a_read_only_file_is_refused_for_writing_and_can_be_audited():
    """In a process without privileges, since root may write everything."""
    script = """
import asyncio, os, sys, tempfile
from pathlib import Path
from signal_ledger import SchemaError, lite, open_ledger

async def main():
    folder = Path(sys.argv[1])
    url = f"sqlite:///{folder}/signals.db"
    async with lite(url, queues={}): pass
    async with open_ledger(url, read_only=True) as ledger: await ledger.verify()
    (folder / "signals.db").chmod(0o444)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    try:
        async with lite(url, queues={}): print("opened")
    except SchemaError as error:
        print(error)
    async with open_ledger(url, read_only=True) as ledger:
        print(await ledger.verify())

asyncio.run(main())
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", script, name], capture_output=True, text=True, check=False, timeout=60
        )
        folder.chmod(0o755)
    assert f"{folder}/signals.db cannot be written: the file or its folder is read-only" in done.stdout, done.stderr
    assert "verify: ok (0 events, 0 streams)" in done.stdout


async def test_auditing_makes_nothing(path):
    sqlite3.connect(path).close()
    assert "holds no ledger; lite(url) makes one in it" in await refusal(path, create=False)
    make_old(path, 1)
    assert "has schema version 1, expected 6; open it once for writing to upgrade it" in await refusal(
        path, create=False, read_only=True
    )
    async with open_ledger(f"sqlite:///{path}") as ledger:
        assert (await ledger.verify()).ok
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        assert (await ledger.verify()).ok


async def test_the_ledger_can_live_in_an_applications_own_file(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    connection.execute("INSERT INTO orders VALUES (7)")
    connection.execute("PRAGMA user_version = 42")
    connection.commit()
    connection.close()
    async with lite(f"sqlite:///{path}", queues={}):
        pass
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id FROM orders").fetchall() == [(7,)]
    assert connection.execute("PRAGMA user_version").fetchone() == (42,)
    connection.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "expected a database URL such as sqlite:///signals.db"),
        ("postgresql://localhost/db", "expected sqlite:///<file>, got a postgresql URL"),
        ("sqlite://", "expected the path of a file"),
        ("sqlite:///:memory:", "expected the path of a file"),
        ("sqlite:///file:x?mode=memory", "expected the path of a file"),
    ],
)
def test_urls_that_name_no_file_are_refused(url, message):
    with pytest.raises(ValueError, match=message):
        to_path(url)


def test_urls_name_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert to_path("sqlite:///signals.db") == tmp_path.resolve() / "signals.db"
    assert to_path("sqlite+aiosqlite:///a b/ü.db") == tmp_path.resolve() / "a b" / "ü.db"
    assert str(to_path("sqlite:////srv/x.db")) == "/srv/x.db"
    (tmp_path / "link.db").symlink_to(tmp_path / "signals.db")
    assert to_path("sqlite:///link.db") == tmp_path.resolve() / "signals.db"


async def test_odd_file_names_are_files(tmp_path):
    path = tmp_path / "a b%20?#ü.db"
    store = await SqliteStore.open(path, clock=clock, create=True)
    assert await store.end() is None
    await store.close()
    assert path.exists()


async def test_a_store_that_was_closed_writes_no_more(path):
    store = await SqliteStore.open(path, clock=clock, create=True)
    await store.close()
    with pytest.raises(RuntimeError, match="expected an open ledger, this one has been closed"):
        await store.rebuild()


async def test_a_closed_ledger_answers_no_question(path):
    async with lite(f"sqlite:///{path}", queues={}):
        pass
    async with open_ledger(f"sqlite:///{path}") as ledger:
        following = aiter(ledger.follow())
    for ask in (
        lambda: ledger.history(1),
        lambda: ledger.state(1),
        ledger.waiting,
        ledger.verify,
        lambda: anext(following),
    ):
        with pytest.raises(RuntimeError, match="expected an open ledger, this one has been closed"):
            await ask()
