"""Files deleted, moved or replaced under an open ledger: what went into them would be lost (promise D1)."""

import asyncio
import shutil
import sqlite3

import pytest
from oban import Record, worker

from signal_ledger import DeliveryUnknown, await_signal, lite, open_ledger
from signal_ledger.ports import StoreUnavailableError
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.faults.ledgers import make


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    return folder / "signals.db"


def beside(path, suffix):
    return path.with_name(f"{path.name}{suffix}")


def put_another(file):
    """Put a copy in the place of a file."""
    copy = file.with_name("copy")
    shutil.copy(file, copy)
    copy.rename(file)


WAYS = {
    "the database is deleted": (lambda path: path.unlink(), "signals.db to be the file .* deleted or moved"),
    "the database is moved": (lambda path: path.rename(beside(path, "-away")), "signals.db to be .* deleted or moved"),
    "another is put in its place": (put_another, "signals.db to be .* another file is in its place"),
    "the log is deleted": (lambda path: beside(path, "-wal").unlink(), "signals.db-wal to be .* deleted or moved"),
    "the log is replaced": (lambda path: put_another(beside(path, "-wal")), "signals.db-wal to be .* another file"),
    "the index is deleted": (lambda path: beside(path, "-shm").unlink(), "signals.db-shm to be .* deleted or moved"),
    "the folder is moved": (lambda path: path.parent.rename(path.parent.with_name("away")), "deleted or moved"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_d1_no_signal_is_acknowledged_into_a_file_that_is_not_there_any_more(
    path, way, tmp_path, record_property
):
    job_ids = await make(path)
    move, says = WAYS[way]
    account = Account()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        for job_id in job_ids:
            await account.signal(ledger, job_id, "before")
        # Other names of the same files: what was in them can be had again.
        kept = tmp_path / "kept"
        kept.mkdir()
        for suffix in ("", "-wal"):
            (kept / f"signals.db{suffix}").hardlink_to(beside(path, suffix))
        move(path)
        for job_id in job_ids:
            with pytest.raises(DeliveryUnknown, match=says) as unknown:
                await account.signal(ledger, job_id, "after", timeout=0.1)
            assert f"repeat the call with key={unknown.value.signal_id!r}" in str(unknown.value)
        for ask in (lambda: ledger.history(job_ids[0]), ledger.verify, ledger.waiting, ledger.rebuild):
            with pytest.raises(StoreUnavailableError, match=says):
                await ask()
    async with open_ledger(f"sqlite:///{kept}/signals.db") as ledger:
        figures = await account.figures(ledger)
        assert (await ledger.verify()).ok
    assert (figures.unknown, figures.committed) == (len(job_ids), 0)
    figures.record(record_property, happened=1)


async def test_a_read_only_ledger_tells_that_its_file_is_gone(path):
    [job_id] = await make(path, 1)
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        assert await ledger.history(job_id) == []
        path.unlink()
        with pytest.raises(StoreUnavailableError, match=r"deleted or moved; put it back, or close the ledger and open"):
            await ledger.history(job_id)


async def test_d6_a_call_goes_on_when_the_file_is_put_back(path, record_property):
    job_ids = await make(path)
    away = beside(path, "-away")
    account = Account()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        path.rename(away)
        waiting = [asyncio.create_task(account.signal(ledger, job_id, "in the end")) for job_id in job_ids]
        for job_id in job_ids:
            with pytest.raises(DeliveryUnknown):
                await account.signal(ledger, job_id, "given up", timeout=0.1)
        assert not any(task.done() for task in waiting)
        away.rename(path)
        assert [(await task).version for task in waiting] == [1] * len(job_ids)
        figures = await account.figures(ledger)
        for job_id in job_ids:
            assert [event.payload for event in await ledger.history(job_id)] == ["in the end", "given up"]
        assert (await ledger.verify()).ok
    assert (figures.unknown, figures.committed) == (len(job_ids), 0)
    figures.record(record_property, happened=1)


async def test_d1_a_file_that_is_deleted_during_the_commit_is_noticed(path, monkeypatch, tmp_path, record_property):
    """The worst moment: between the look before the commit and its end."""
    [job_id] = await make(path, 1)
    account = Account()
    kept = tmp_path / "kept.db"
    async with open_ledger(f"sqlite:///{path}") as ledger:
        writer = ledger._store._writing
        commit = writer._commit
        for suffix in ("", "-wal"):
            beside(kept, suffix).hardlink_to(beside(path, suffix))

        def commit_and_delete():
            commit()
            path.unlink(missing_ok=True)

        monkeypatch.setattr(writer, "_commit", commit_and_delete)
        with pytest.raises(DeliveryUnknown, match="deleted or moved"):
            await account.signal(ledger, job_id, 1, timeout=0.1)
    async with open_ledger(f"sqlite:///{kept}") as ledger:
        figures = await account.figures(ledger)
    # It was committed, to a file that nobody would have found.
    assert (figures.unknown, figures.committed) == (1, 1)
    figures.record(record_property, happened=1)


async def test_an_operation_that_cannot_be_repeated_is_refused_before_it_is_done(path):
    """A job that is enqueued into a file which has been moved must not turn up when that is put back."""
    async with lite(f"sqlite:///{path}", queues={}) as engine:
        away = beside(path, "-away")
        path.rename(away)
        with pytest.raises(StoreUnavailableError, match="deleted or moved"):
            await engine.enqueue(Waiter.new())
        away.rename(path)
        assert (await engine.enqueue(Waiter.new())).id == 1


async def test_d8_no_signal_is_stored_with_a_connection_if_the_ledger_cannot_find_it(path):
    import aiosqlite

    [job_id] = await make(path, 1)
    async with open_ledger(f"sqlite:///{path}") as ledger, aiosqlite.connect(path) as connection:
        path.unlink()
        with pytest.raises(StoreUnavailableError, match="deleted or moved"):
            await ledger.signal(job_id, 1, conn=connection)


@worker()
class Waiter:
    async def process(self, job):
        return Record(await await_signal(wait_timeout=0))


async def test_an_engine_whose_file_was_moved_says_so_and_goes_on_when_it_is_back(path, caplog):
    async with lite(f"sqlite:///{path}") as engine:
        job = await engine.enqueue(Waiter.new())

        async def snoozed():
            return (await engine.ledger.state(job.id)).status == "snoozed"

        await eventually(snoozed)
        away = beside(path, "-away")
        path.rename(away)
        engine._runner.kick()
        await eventually(lambda: "the database could not be watched; trying again" in caplog.text)
        await eventually(lambda: "jobs could not be fetched yet" in caplog.text)
        assert len(caplog.records) < 40, "it tells the same again and again"
        away.rename(path)
        await engine.signal(job, "back")

        async def completed():
            return (await engine.get_job(job.id)).state == "completed"

        await eventually(completed)


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_an_engine_stops_though_its_file_is_gone(path, what):
    async with lite(f"sqlite:///{path}", shutdown_grace_period=0.2) as engine:
        await engine.enqueue(Waiter.new())
        if what == "file":
            path.unlink()
        else:
            shutil.rmtree(path.parent)
    assert engine._tasks == []


async def test_closing_leaves_the_files_alone_that_others_have_put_there(path):
    """SQLite deletes a write-ahead log by its name when it closes."""
    [job_id] = await make(path, 1)
    async with open_ledger(f"sqlite:///{path}") as ledger:
        await ledger.signal(job_id, "old")
        for file in path.parent.glob("signals.db*"):
            file.rename(file.with_name(f"old-{file.name}"))
        [other_job] = await make(path, 1)
        new = sqlite3.connect(path)
        new.execute("PRAGMA wal_autocheckpoint = 0")
        new.execute("PRAGMA journal_mode = WAL").fetchone()
        new.execute("CREATE TABLE kept (x)")
    assert beside(path, "-wal").stat().st_size > 0
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    other.close()
    new.close()
    assert other_job == 1
