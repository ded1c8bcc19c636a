"""The doctor on SQLite files: what is well, each thing that can be wrong, and that nothing is left behind."""

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from oban import Job, worker

from signal_ledger import await_signal, lite, migrate, open_ledger
from signal_ledger_adapters.doctor import Status, examine, machine, sqlite, watcher
from signal_ledger_adapters.sqlite import connection as connections
from signal_ledger_adapters.sqlite.migrate import migrations
from tests.doctor.looked import MACHINE, looked
from tests.eventually import eventually
from tests.faults.strace import require_strace
from tests.sqlite.test_opening import make_old

NEWEST = migrations()[-1].version
EVERYWHERE = ["version", "file_system", "disk_space", "connection", "schema"]
ALL = [
    *(*EVERYWHERE, "triggers", "indexes", "journal", "writing", "synchronous", "hints", "clock", "repairs", "outbox"),
    *("waits", "engines", *MACHINE),
]
SECRET = "open-sesame"


@worker()
class Asking:
    async def process(self, job):
        await await_signal(wait_for=job.args["for"], wait_timeout=0)


@pytest.fixture
async def url(path):
    """A file with a ledger, which nobody has open."""
    url = f"sqlite:///{path}"
    await migrate(url)
    return url


def sql(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements]


def contents(path):
    """All that a file holds, and the names beside it."""
    with closing(sqlite3.connect(path)) as connection:
        held = list(connection.iterdump())
        held += [connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "schema_version")]
    return held, sorted(entry.name for entry in path.parent.iterdir())


async def test_all_is_well_where_an_engine_runs(url):
    async with lite(url) as engine:
        job = await engine.enqueue(Job("shop.Nobody", queue="other"))
        await engine.signal(job, "soon")
        found = await looked(url)
    assert list(found) == ALL
    assert found.problems() == []
    assert found["engines"].found == "engines that run on this file: 1"
    assert found["hints"].found.startswith("another process sees a commit after ")
    assert f"SQLite {sqlite3.sqlite_version}" in found["version"].found
    assert found["schema"].found == f"the schema has version {NEWEST}, the newest that this library knows"


async def test_it_leaves_nothing_behind(url, path):
    async with lite(url, queues={}) as engine:
        await engine.signal(await engine.enqueue(Job("shop.Nobody")), SECRET)
    before = contents(path)
    found = await looked(url)
    assert list(found) == ALL
    assert contents(path) == before
    assert SECRET not in str(found)


async def test_its_engines_lock_survives_a_look_from_the_same_process(url, path):
    """Closing a file of its own would drop them."""
    script = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode = DELETE').fetchone())"
    )
    async with lite(url, queues={}):
        await looked(url)
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script, path], capture_output=True, text=True, check=False
        )
        # No other process takes the log away from one that has the file open.
        assert "database is locked" in done.stderr, done


async def test_a_file_that_is_not_there_is_found_and_not_made(path):
    found = await looked(f"sqlite:///{path}")
    assert list(found) == [*EVERYWHERE[:4], *MACHINE]
    assert found.problems() == ["connection"]
    assert found["connection"].found == f"there is no file {path}"
    assert "`signal-ledger migrate` or lite(url) makes the file" in found["connection"].advice
    assert list(path.parent.iterdir()) == []


async def test_a_folder_that_is_not_there_is_found(tmp_path):
    found = await looked(f"sqlite:///{tmp_path}/none/signals.db")
    assert "connection" in found.problems()
    assert found["disk_space"].status is not Status.OK


async def test_a_file_that_is_no_database_is_found(path):
    path.write_text("Dear diary, " * 1000)
    found = await looked(f"sqlite:///{path}")
    assert found.problems() == ["connection"]
    assert "is no SQLite database; nothing was changed" in found["connection"].found
    assert found["connection"].advice == "check the path in the URL"


async def test_what_to_do_about_a_damaged_file_is_told(url, path):
    whole = path.read_bytes()
    # The header stays; what comes behind it on the first page, the schema, does not.
    path.write_bytes(whole[:100] + b"\xff" * 400 + whole[500:])
    found = await looked(url)
    assert found.problems() == ["connection"]
    assert "is damaged (database disk image is malformed); nothing was changed" in found["connection"].found
    assert found["connection"].advice.startswith("restore the file from a backup, or save what can be read by .recover")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TABLE signal_ledger_schema", "holds no ledger"),
        ("DELETE FROM signal_ledger_schema WHERE version > 1", f"the schema has version 1, expected {NEWEST}"),
        (
            f"INSERT INTO signal_ledger_schema (version, name, checksum) VALUES ({NEWEST + 1}, 'x', 'y')",
            f"the schema has version {NEWEST + 1}, newer than {NEWEST}",
        ),
        (
            "ALTER TABLE signal_ledger_repairs RENAME TO mine",
            f"expected the tables of version {NEWEST}, but signal_ledger_repairs is not there",
        ),
        ("ALTER TABLE signal_ledger_waits ADD COLUMN mine TEXT", "but signal_ledger_waits is another"),
    ],
)
async def test_another_schema_is_found(url, path, statement, told):
    sql(path, statement)
    found = await looked(url)
    assert found.problems() == ["schema"]
    assert told in found["schema"].found
    assert list(found) == [*EVERYWHERE, *MACHINE]


async def test_an_old_file_is_found_and_left_as_it_is(path):
    make_old(path, 2)
    before = path.read_bytes()
    found = await looked(f"sqlite:///{path}")
    assert "`signal-ledger migrate` upgrades it" in found["schema"].advice
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statements", "name", "told"),
    [
        (
            ["DROP TRIGGER signal_ledger_events_no_update"],
            "triggers",
            "expected the triggers of this version, but signal_ledger_events_no_update is not there",
        ),
        (
            [
                "DROP TRIGGER signal_ledger_job_deleted",
                "CREATE TRIGGER signal_ledger_job_deleted AFTER DELETE ON oban_jobs BEGIN SELECT 1; END",
            ],
            "triggers",
            "signal_ledger_job_deleted is another",
        ),
        (["DROP INDEX signal_ledger_events_consumed"], "indexes", "signal_ledger_events_consumed is not there"),
    ],
)
async def test_what_the_log_is_defended_by_is_missed(url, path, statements, name, told):
    sql(path, *statements)
    found = await looked(url)
    assert name in found.problems()
    assert told in found[name].found
    assert "restore the file from a backup" in found[name].advice


async def test_what_an_application_keeps_in_the_file_is_its_own_business(url, path):
    sql(path, "CREATE TABLE orders (id)", "CREATE INDEX orders_id ON orders (id)")
    assert (await looked(url)).problems() == []


async def test_a_journal_that_was_switched_is_found_and_not_switched_back(url, path):
    sql(path, "PRAGMA journal_mode = DELETE")
    found = await looked(url)
    assert found.problems() == ["journal"]
    assert found["journal"].found == "expected write-ahead logging (wal), found the journal mode delete"
    assert sql(path, "PRAGMA journal_mode") == [[("delete",)]]
    assert "writing" not in found


async def test_a_connection_that_would_not_sync_is_found(url, monkeypatch):
    monkeypatch.setattr(connections, "_FULL", 3)
    found = await looked(url)
    assert found.problems() == ["writing"]
    assert "expected synchronous = FULL (3), found (2,)" in found["writing"].found


async def test_a_lock_is_found_in_time_and_not_waited_for(url, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = await looked(url, timeout_s=0.5)
        assert found.problems() == ["writing"]
        assert "is locked by another program for more than 0.25 s; close it there" in found["writing"].found
        assert "hints" not in found


async def test_a_file_that_another_program_keeps_for_itself_is_found(path):
    sql(path, "CREATE TABLE orders (id)")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = await looked(f"sqlite:///{path}", timeout_s=0.5)
        assert found.problems() == ["connection"]
        assert "is locked by another program" in found["connection"].found


AS_NOBODY = """
import asyncio, os, sys
from signal_ledger_adapters.doctor import examine

async def main(folder):
    return [check async for check in examine(f"sqlite:///{folder}/signals.db")]

# Loads everything, which an unprivileged user may not be able to read.
asyncio.run(main(sys.argv[2]))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for check in asyncio.run(main(sys.argv[1])):
    print(check.name, check.status, check.found, sep="|")
"""


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o444, 0o755), (0o666, 0o555)])
def test_what_may_not_be_written_is_found(tmp_path, mode, folder_mode):
    """In a process without privileges, since root may write everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        path = folder / "signals.db"

        async def use():
            async with lite(f"sqlite:///{path}", queues={}):
                pass

        asyncio.run(use())
        asyncio.run(migrate(f"sqlite:///{tmp_path}/signals.db"))
        path.chmod(mode)
        (folder / "signals.db-nodes").chmod(0o444)
        folder.chmod(folder_mode)
        before = sorted(folder.iterdir())
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, folder, tmp_path], capture_output=True, text=True, check=False
        )
        folder.chmod(0o755)
        assert sorted(folder.iterdir()) == before
    checks = {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}
    assert [name for name, (status, _) in checks.items() if status == "finding"] == ["writing"], done
    assert f"this user may write to {path} and in its folder, but it may not" in checks["writing"][1]
    assert checks["outbox"][0] == "ok"
    assert checks["engines"] == ["note", f"whether an engine runs cannot be told: this user may not open {path}-nodes"]


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("nfs4", Status.FINDING, "is on nfs4: expected a local file system"),
        ("9p", Status.FINDING, "is on 9p"),
        ("fuse.thing", Status.NOTE, "is on fuse.thing, of which nothing is known"),
        ("tmpfs", Status.NOTE, "nothing in it outlives the machine"),
        ("ext4", Status.OK, "is on ext4"),
    ],
)
async def test_the_file_system_is_told(tmp_path, monkeypatch, kind, status, told):
    folder = tmp_path / "my files"
    folder.mkdir()
    await migrate(f"sqlite:///{folder}/signals.db")
    mounts = tmp_path / "mounts"
    place = str(folder).replace(" ", "\\040")
    mounts.write_text(
        f"/dev/a / ext4 rw 0 0\nold {place} cifs rw 0 0\nserver:/x {place} {kind} rw 0 0\n/ /m nfs rw 0 0\n"
    )
    monkeypatch.setattr(machine, "MOUNTS", mounts)
    found = await looked(f"sqlite:///{folder}/signals.db")
    assert found["file_system"].status is status
    assert told in found["file_system"].found
    monkeypatch.setattr(machine, "MOUNTS", tmp_path / "none")
    unknown = (await looked(f"sqlite:///{folder}/signals.db"))["file_system"]
    assert (unknown.status, "is not known" in unknown.found) == (Status.NOTE, True)


async def test_a_disk_that_fills_up_is_told(url, monkeypatch):
    assert (await looked(url))["disk_space"].status is Status.OK
    monkeypatch.setattr(machine, "ROOM_NOTE_BYTES", 1 << 60)
    assert (await looked(url))["disk_space"].status is Status.NOTE
    monkeypatch.setattr(machine, "ROOM_FINDING_BYTES", 1 << 60)
    found = await looked(url)
    assert found.problems() == ["disk_space"]
    assert ": expected at least " in found["disk_space"].found


async def test_an_old_sqlite_is_told(url, monkeypatch):
    monkeypatch.setattr(sqlite, "OLDEST_TESTED", (99, 1))
    told = (await looked(url))["version"]
    assert (told.status, told.found[-36:]) == (Status.NOTE, "older than 99.1, the oldest that is tested"[-36:])
    monkeypatch.setattr(sqlite, "OLDEST", (99, 0))
    found = await looked(url)
    assert found.problems() == ["version"]
    assert ": expected 99.0 or newer" in found["version"].found


async def test_connections_that_do_not_share_memory_are_found(url, monkeypatch):
    """As on a network file system: here somebody deletes the log's index between the two."""
    monkeypatch.setattr(watcher, "WATCH_S", 0.1)

    def connect_and_part(path, **options):
        connection = connections.connect(path, **options)
        path.with_name(f"{path.name}-shm").unlink()
        return connection

    monkeypatch.setattr(sqlite, "connect", connect_and_part)
    found = await looked(url)
    assert found.problems() == ["hints"]
    assert "expected that another process sees a commit, but it does not" in found["hints"].found


async def test_hints_are_not_tested_where_no_process_can_be_started(url, monkeypatch):
    for program in ("/nowhere/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", program)
        told = (await looked(url))["hints"]
        assert told.status is Status.NOTE
        assert told.found.startswith("this was not tested: no other process could be started: ")


async def test_events_from_the_future_are_found(url):
    async with lite(url, queues={}, clock=lambda: datetime.now(UTC) + timedelta(hours=2)) as engine:
        await engine.signal(await engine.enqueue(Job("shop.Nobody")), 1)
    found = await looked(url)
    assert "clock" in found.problems()
    assert "the latest is 2 h ahead of this clock" in found["clock"].found


async def test_events_from_the_future_are_found_among_many(url):
    """Those that were recorded since, by a clock that was set right, hide them from who looks at the newest alone."""
    async with lite(url, queues={}, clock=lambda: datetime.now(UTC) + timedelta(hours=2)) as engine:
        await engine.signal(await engine.enqueue(Job("shop.Nobody")), 1)
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Job("shop.Nobody"))
        await asyncio.gather(*[engine.signal(job, 1) for _ in range(600)])
    assert "clock" in (await looked(url)).problems()


async def test_an_end_that_is_missing_is_told_and_later_found(url, path):
    sql(path, "INSERT INTO signal_ledger_repairs (job_id, cause) VALUES (7, 'cancelled')")
    told = (await looked(url))["repairs"]
    assert told.status is Status.NOTE
    assert "1 is missing, job 7's among them" in told.found
    sql(path, "UPDATE signal_ledger_repairs SET noted_at = '2026-01-01T00:00:00.000Z'")
    found = await looked(url)
    assert found.problems() == ["repairs"]


async def test_signals_that_nobody_relays_are_found(url, path):
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Job("shop.Nobody"))
    import aiosqlite

    async with open_ledger(url) as ledger, aiosqlite.connect(path) as connection:
        await ledger.signal(job, SECRET, conn=connection)
        await connection.commit()
    found = await looked(url)
    assert found["outbox"].status is Status.OK
    sql(path, "UPDATE signal_ledger_outbox SET stored_at = '2026-01-01T00:00:00.000000Z'")
    found = await looked(url)
    assert {"outbox", "engines"} <= set(found.problems())
    assert "1 waits for longer than 1 min" in found["outbox"].found
    assert SECRET not in str(found)
    sql(path, "UPDATE signal_ledger_outbox SET refusal = 'missing'")
    told = (await looked(url))["outbox"]
    assert (told.status, told.found) == (Status.NOTE, "of the stored signals 1 was refused at relay")


async def test_waits_that_are_overdue_are_found(url):
    yesterday = timedelta(days=1)
    async with lite(url, clock=lambda: datetime.now(UTC) - yesterday) as engine:
        await engine.enqueue_many([Asking.new({"for": 3600}), Asking.new({"for": 50 * 3600})])

        async def both_wait():
            return len(await engine.ledger.waiting()) == 2

        await eventually(both_wait)
    found = await looked(url)
    assert found.problems() == ["waits", "engines"]
    assert "1 is overdue by more than 1 min, the first by 23 h" in found["waits"].found
    # A way that is there, for whoever asked the doctor at a terminal.
    assert "`signal-ledger waiting --deadline-before 0s` lists them" in found["waits"].advice


async def test_that_no_engine_runs_matters_where_there_is_something_to_do(url):
    told = (await looked(url))["engines"]
    assert (told.status, told.found) == (Status.NOTE, "no engine runs, and there is nothing to do for one")
    assert told.advice is None
    async with lite(url, queues={}) as engine:
        await engine.enqueue(Job("shop.Nobody"))
        assert (await looked(url))["engines"].status is Status.OK
    found = await looked(url)
    assert found.problems() == ["engines"]
    assert found["engines"].found == "expected an engine to run, since there are jobs or signals, but none does"


async def test_where_engines_have_no_file_of_locks_none_runs_and_none_is_made(url, path):
    async with lite(url, queues={}) as engine:
        await engine.enqueue(Job("shop.Nobody"))
    path.with_name(f"{path.name}-nodes").unlink()
    assert (await looked(url)).problems() == ["engines"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


async def test_what_cannot_be_understood_is_found(url, path):
    """Whatever somebody has put there."""
    sql(path, f"INSERT INTO signal_ledger_repairs VALUES (7, 'cancelled', '{SECRET}')")
    found = await looked(url)
    assert found.problems() == ["repairs"]
    assert found["repairs"].found == "expected something that can be understood, but found what leads to a ValueError"
    assert SECRET not in str(found)
    assert list(found) == ALL


async def test_an_engine_of_another_process_is_seen(url):
    script = """
import asyncio, sys
from signal_ledger import lite

async def main():
    async with lite(sys.argv[1]):
        print("runs", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert await process.stdout.readline() == b"runs\n"
    assert (await looked(url))["engines"].status is Status.OK
    process.kill()
    await process.communicate()
    assert (await looked(url))["engines"].status is Status.NOTE


async def test_a_disk_that_hangs_is_found_in_time(url, path):
    """Every read of the file takes a minute, which nobody waits for."""
    require_strace()
    script = """
import asyncio, sys, time
from signal_ledger_adapters.doctor import examine

async def main():
    began = time.monotonic()
    async for check in examine(sys.argv[1], timeout_s=1):
        print(check.name, check.status, check.found, sep="|", flush=True)
    print("took", time.monotonic() - began)

asyncio.run(main())
"""
    began = time.monotonic()
    command = ["strace", "-f", "-o", "/dev/null", "-P", str(path), "-e", "trace=pread64"]
    process = await asyncio.create_subprocess_exec(
        *[*command, "-e", "inject=pread64:delay_enter=60000000", sys.executable, "-c", script, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    told = []
    while line := (await process.stdout.readline()).decode().strip():
        told.append(line)
        if line.startswith("took"):
            break
    # The tracer waits for the call that hangs.
    process.kill()
    await process.communicate()
    assert time.monotonic() - began < 50
    assert float(told[-1].split()[1]) < 5
    assert [line.split("|")[0] for line in told[:-1]] == [*EVERYWHERE[:4], *MACHINE]
    assert "expected an answer within 1 s, got none; nothing else of the file was examined" in told[3]


async def test_it_can_be_left_in_the_middle(url, path):
    checks = examine(url)
    await anext(checks)
    await checks.aclose()
    assert contents(path)[1] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("nonsense",), {}, ValueError, "url: expected a database URL"),
        (("sqlite://",), {}, ValueError, "url: expected the path of a file"),
        ((7,), {}, ValueError, "url: expected a database URL"),
        (("sqlite:///x.db",), {"schema": "a"}, ValueError, "schema: expected None for a SQLite file"),
        (("sqlite:///x.db",), {"timeout_s": -1}, ValueError, "timeout_s: expected 0 seconds to 50 years"),
        (("sqlite:///x.db",), {"timeout_s": "1"}, TypeError, "timeout_s: expected a number of seconds"),
        ((f"postgresql://ada:{SECRET}/app",), {}, ValueError, "url: expected a database URL"),
        (("postgresql://localhost/app",), {"schema": ""}, ValueError, "schema: expected the name of a schema"),
        (("postgresql://localhost/app?statement_cache_size=7",), {}, ValueError, "expected statement_cache_size=0"),
    ],
)
def test_a_wrong_call_is_refused_at_once(arguments, options, error, message):
    with pytest.raises(error, match=message) as refused:
        examine(*arguments, **options)
    assert SECRET not in str(refused.value)
