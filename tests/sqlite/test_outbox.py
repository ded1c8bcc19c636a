"""Signals in a caller's own transaction, by every kind of connection, and their relay (promise D8)."""

import asyncio
import contextlib
import sqlite3

import aiosqlite
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from signal_ledger.embedded.operations import RelayOutbox
from signal_ledger.errors import DeliveryUnknown
from signal_ledger.testing.contract.outbox import outbox, whole_log
from signal_ledger.testing.contract.steps import asleep, kinds
from tests.callers import Caller, sqlalchemy_connection, sqlalchemy_session, with_aiosqlite


def make_engine(path, *, begins=False):
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    if begins:
        # As SQLAlchemy's own documentation proposes, for transactions that begin when SQLAlchemy says so.
        @event.listens_for(engine.sync_engine, "connect")
        def connect(connection, _entry):
            connection.isolation_level = None

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextlib.asynccontextmanager
async def with_rows_by_name(path):
    async with aiosqlite.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        await connection.execute("BEGIN")
        yield Caller(connection, connection.execute, connection.commit, connection.rollback)


CALLERS = {
    "AsyncSession": lambda path: sqlalchemy_session(make_engine(path)),
    "AsyncSession that begins": lambda path: sqlalchemy_session(make_engine(path, begins=True)),
    "AsyncConnection": lambda path: sqlalchemy_connection(make_engine(path)),
    "AsyncConnection that begins": lambda path: sqlalchemy_connection(make_engine(path, begins=True)),
    "aiosqlite": with_aiosqlite,
    "aiosqlite with rows by name": with_rows_by_name,
}


@pytest.fixture
def admin(bench, path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE customers (name TEXT)")
    yield connection
    connection.close()


@pytest.fixture(params=list(CALLERS))
async def caller(request, admin, path):
    async with CALLERS[request.param](path) as caller:
        yield caller


def count(connection, table):
    return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


async def test_d8_a_signal_is_stored_with_the_callers_own_changes(bench, admin, caller):
    async with asyncio.timeout(10):
        await caller.run("INSERT INTO customers VALUES ('Ada')")
        receipts = [await bench.signaller.store(caller.conn, 404, number) for number in range(2)]
        assert [receipt.outcome for receipt in receipts] == ["stored", "stored"]
        # Nobody else sees anything yet.
        assert (count(admin, "customers"), count(admin, "signal_ledger_outbox")) == (0, 0)
        await caller.commit()
    assert (count(admin, "customers"), count(admin, "signal_ledger_outbox")) == (1, 2)
    assert [stored.signal_id for stored in await outbox(bench)] == [receipt.signal_id for receipt in receipts]


async def test_d8_a_rollback_takes_the_signal_along_also_as_the_first_statement(bench, admin, caller):
    # No statement of the caller has begun a transaction: storing does.
    await bench.signaller.store(caller.conn, 404, "never")
    await caller.run("INSERT INTO customers VALUES ('Bob')")
    await caller.rollback()
    assert (count(admin, "customers"), count(admin, "signal_ledger_outbox")) == (0, 0)


async def test_d8_writers_wait_for_an_open_transaction_and_lose_nothing(bench, caller):
    job_id, _ = await asleep(bench)
    await bench.signaller.store(caller.conn, job_id, "stored")
    sending = asyncio.create_task(bench.signaller.send(job_id, "sent"))
    relaying = asyncio.create_task(bench.relay())
    # Reading goes on meanwhile.
    assert await kinds(bench, job_id) == ["awaited", "snoozed"]
    done, _ = await asyncio.wait([sending, relaying], timeout=0.05)
    assert not done
    await caller.commit()
    await asyncio.gather(sending, relaying)
    [*_, first, second] = await bench.store.history(job_id)
    assert (first.payload, first.outcome, second.payload, second.outcome) == ("sent", "woken", "stored", "buffered")


async def test_d8_without_a_transaction_storing_is_one_for_all_targets(bench, path):
    job_ids = [await bench.insert() for _ in range(2)]
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        statements = []
        await connection.set_trace_callback(statements.append)
        await bench.signaller.store_all(connection, job_ids, "go")
        assert len([sql for sql in statements if sql.startswith("INSERT")]) == 1
        await bench.relay()
    for job_id in job_ids:
        assert await kinds(bench, job_id) == ["delivered"]


async def test_d8_an_uncommitted_signal_of_a_connection_that_is_closed_never_was(bench, path):
    async with aiosqlite.connect(path) as connection:
        await bench.signaller.store(connection, 404)
    assert await outbox(bench) == []


async def test_d8_a_connection_to_another_file_is_refused(bench, tmp_path, path):
    for place in (":memory:", tmp_path / "other.db"):
        async with aiosqlite.connect(place) as connection:
            with pytest.raises(ValueError, match=f"conn: expected a connection to {path}, the ledger's own file"):
                await bench.signaller.store(connection, 404)
    async with sqlalchemy_session(make_engine(tmp_path / "other.db")) as caller:
        with pytest.raises(ValueError, match="got one to another database"):
            await bench.signaller.store(caller.conn, 404)


async def test_d8_another_name_of_the_file_will_do(bench, tmp_path, path):
    other = tmp_path / "link.db"
    other.symlink_to(path)
    async with aiosqlite.connect(other) as connection:
        assert (await bench.signaller.store(connection, 404)).outcome == "stored"


@pytest.mark.parametrize(("level", "name"), [("OFF", "OFF"), ("NORMAL", "NORMAL")])
async def test_d1_d8_a_connection_that_would_not_sync_its_commit_is_refused(bench, path, level, name):
    async with aiosqlite.connect(path) as connection:
        await connection.execute(f"PRAGMA synchronous = {level}")
        with pytest.raises(ValueError, match=f"PRAGMA synchronous = FULL.*got one with {name}"):
            await bench.signaller.store(connection, 404)
        await connection.execute("PRAGMA synchronous = EXTRA")
        await bench.signaller.store(connection, 404)
        await connection.commit()
    assert len(await outbox(bench)) == 1


async def test_d8_what_is_no_connection_is_refused_with_what_is_expected(bench, path):
    with (
        contextlib.closing(sqlite3.connect(path)) as connection,
        pytest.raises(TypeError, match=r"conn: expected a SQLAlchemy AsyncSession .*, got sqlite3.Connection"),
    ):
        await bench.signaller.store(connection, 404)


async def test_d6_d8_a_call_whose_time_is_up_is_unknown_and_can_be_rolled_back(bench, path, admin):
    """Another program holds the write lock for longer than the caller wants to wait."""
    admin.execute("BEGIN IMMEDIATE")
    async with aiosqlite.connect(path) as connection:
        sender = bench.signaller._sender
        with pytest.raises(DeliveryUnknown, match=r"within 0.05 s.*repeat the call with key="):
            await sender.send(404, "p", channel=None, key=None, source=None, conn=connection, timeout=0.05)
        admin.execute("ROLLBACK")
        await connection.rollback()
    assert await outbox(bench) == []


async def test_d8_a_cancelled_call_can_be_rolled_back(bench, path, admin):
    admin.execute("BEGIN IMMEDIATE")
    async with aiosqlite.connect(path) as connection:
        storing = asyncio.create_task(bench.signaller.store(connection, 404))
        await asyncio.wait([storing], timeout=0.01)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        admin.execute("ROLLBACK")
        await connection.rollback()
    assert await outbox(bench) == []


async def test_d8_faults_of_the_connection_are_its_own(bench, path, admin):
    admin.execute("BEGIN IMMEDIATE")
    async with aiosqlite.connect(path, timeout=0) as connection:
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            await bench.signaller.store(connection, 404)


async def test_d8_ids_of_64_bits_are_stored_as_they_are(bench):
    job_ids = [2**63 - 1, -(2**63), 2**53 + 1]
    async with bench.transaction() as conn:
        await bench.signaller.store_all(conn, job_ids)
    assert [stored.job_id for stored in await outbox(bench)] == job_ids


# The relay


async def test_d8_batches_are_bounded_in_rows_and_bytes(bench):
    job_id = await bench.insert()
    async with bench.transaction() as conn:
        for number in range(6):
            await bench.signaller.store(conn, job_id, b"x" * (1 if number % 2 else 1000))

    async def relay(rows_max, size_bytes_max):
        return (await bench.store.transact(RelayOutbox(rows_max=rows_max, size_bytes_max=size_bytes_max))).count

    # The first one comes whatever its size, and no more once the bytes are reached.
    assert [await relay(10, 1), await relay(10, 900), await relay(2, 10_000), await relay(10, 10_000)] == [1, 2, 2, 1]
    assert await relay(10, 10_000) == 0


async def test_d8_the_relay_tells_of_jobs_that_were_woken_or_reached(bench):
    snoozed, _ = await asleep(bench)
    idle = await bench.insert()
    async with bench.transaction() as conn:
        await bench.signaller.store_all(conn, [idle, snoozed, 404])
    relayed = await bench.store.transact(RelayOutbox())
    assert (relayed.count, relayed.told) == (3, (snoozed,))


async def test_d8_a_relay_whose_commit_fails_is_made_up_for(bench, monkeypatch):
    """Nothing is delivered without being struck from the outbox, and nothing struck without being delivered."""
    job_id = await bench.insert()
    async with bench.transaction() as conn:
        await bench.signaller.store_all(conn, [job_id, 404])
    writer = bench.store._writing
    commit = writer._commit

    def failing_commit():
        monkeypatch.setattr(writer, "_commit", commit)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(writer, "_commit", failing_commit)
    with pytest.raises(RuntimeError, match="disk I/O error"):
        await bench.relay()
    assert await kinds(bench, job_id) == []
    assert [stored.refusal for stored in await outbox(bench)] == [None, None]
    await bench.relay()
    assert await kinds(bench, job_id) == ["delivered"]
    assert [stored.refusal for stored in await outbox(bench)] == ["missing"]


async def test_d8_a_signal_that_is_in_the_log_already_is_not_delivered_again(bench, admin):
    """What was struck by hand and put back, say: the delivery's id is looked up."""
    job_id = await bench.insert()
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, job_id)
    admin.execute("CREATE TABLE kept AS SELECT * FROM signal_ledger_outbox")
    await bench.relay()
    admin.execute("INSERT INTO signal_ledger_outbox SELECT * FROM kept")
    await bench.relay()
    assert await kinds(bench, job_id) == ["delivered"]
    assert await outbox(bench) == []


@pytest.mark.parametrize("has_projection", [True, False])
async def test_l8_a_signal_for_a_stream_of_a_newer_library_is_left_to_that_one(bench, admin, has_projection):
    newer, other = await bench.insert(), await bench.insert()
    await bench.signaller.send(newer)
    admin.execute("CREATE TEMP TABLE next AS SELECT * FROM signal_ledger_events")
    admin.execute("UPDATE next SET position = 2, version = 2, schema_version = 3, signal_id = 'another'")
    admin.execute("INSERT INTO signal_ledger_events SELECT * FROM next")
    if has_projection:
        admin.execute("UPDATE signal_ledger_waits SET schema_version = 3, version = 2")
    else:
        admin.execute("DELETE FROM signal_ledger_waits")
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, newer, 1)
        await bench.signaller.store(conn, other, 2)
    if has_projection:
        # However many there are, they do not stand in the way of others.
        assert (await bench.store.transact(RelayOutbox(rows_max=1))).count == 1
    await bench.relay()
    assert [(stored.job_id, stored.refusal) for stored in await outbox(bench)] == [(newer, None)]
    assert await kinds(bench, other) == ["delivered"]


async def test_d8_a_signal_in_an_enqueueing_transaction_finds_the_job(bench, path):
    from tests.core.test_embedded import new_job

    async with aiosqlite.connect(path) as connection:
        [row] = await bench.store.insert_with(connection, [new_job()])
        await bench.signaller.store(connection, row.id, "first")
        await connection.commit()
    await bench.relay()
    assert [recorded.job_id for recorded in await whole_log(bench)] == [row.id]
