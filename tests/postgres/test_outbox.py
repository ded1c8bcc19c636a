"""Signals in a caller's own transaction, by every kind of connection, and their relay (promise D8)."""

import asyncio
import contextlib
import traceback

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine

from signal_ledger.commands import Deliver
from signal_ledger.jobs import JobState
from signal_ledger.ports import EventFilter
from signal_ledger.testing.bench import Signaller
from signal_ledger.testing.contract.outbox import outbox, whole_log
from signal_ledger.testing.contract.steps import executing, kinds
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.migrate import migrate
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.callers import Caller, make_engine, sqlalchemy_connection, sqlalchemy_session, with_asyncpg, with_psycopg
from tests.postgres.conftest import install, install_oban

SECRET = "4111 1111 1111 1111"


@contextlib.asynccontextmanager
async def with_asyncpg_pool(url):
    async with asyncpg.create_pool(url, min_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield Caller(connection, connection.fetchval, transaction.commit, transaction.rollback)
        if connection.is_in_transaction():
            await transaction.rollback()


CALLERS = {
    "AsyncSession with asyncpg": lambda url: sqlalchemy_session(make_engine(url, "asyncpg")),
    "AsyncSession with psycopg": lambda url: sqlalchemy_session(make_engine(url, "psycopg")),
    "AsyncConnection with asyncpg": lambda url: sqlalchemy_connection(make_engine(url, "asyncpg")),
    "AsyncConnection with psycopg": lambda url: sqlalchemy_connection(make_engine(url, "psycopg")),
    "asyncpg": with_asyncpg,
    "asyncpg's pool": with_asyncpg_pool,
    "psycopg": with_psycopg,
    "psycopg with rows by name": lambda url: with_psycopg(url, dict_row),
}


@pytest.fixture(params=list(CALLERS))
async def caller(request, bench, ledger_url):
    async with CALLERS[request.param](ledger_url) as caller:
        yield caller


@pytest.fixture
async def admin(ledger_url):
    async with await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE customers (name text)")
        yield connection


async def count(connection, table):
    cursor = await connection.execute(f"SELECT count(*) FROM {table}")
    return (await cursor.fetchone())[0]


async def test_d8_a_signal_is_stored_with_the_callers_own_changes(bench, admin, caller):
    job_id = await bench.insert()
    await caller.run("INSERT INTO customers VALUES ('Ada')")
    receipts = [await bench.signaller.store(caller.conn, job_id, {"n": number}) for number in range(2)]
    assert [receipt.outcome for receipt in receipts] == ["stored", "stored"]
    # Nobody else sees anything yet.
    assert (await count(admin, "customers"), await count(admin, "signal_ledger.outbox")) == (0, 0)
    assert await bench.store.relay() == 0
    await caller.commit()
    assert (await count(admin, "customers"), await count(admin, "signal_ledger.outbox")) == (1, 2)
    assert await bench.store.relay() == 2
    history = await bench.store.history(job_id)
    assert [recorded.signal_id for recorded in history] == [receipt.signal_id for receipt in receipts]
    assert [recorded.payload for recorded in history] == [{"n": 0}, {"n": 1}]


async def test_d8_a_rollback_takes_the_signal_along_also_as_the_first_statement(bench, admin, caller):
    job_id = await bench.insert()
    # No statement of the caller has begun a transaction: storing does.
    await bench.signaller.store(caller.conn, job_id, "never")
    await caller.run("INSERT INTO customers VALUES ('Bob')")
    await caller.rollback()
    assert (await count(admin, "customers"), await count(admin, "signal_ledger.outbox")) == (0, 0)


async def test_d8_the_commit_is_forced_to_be_durable_for_this_transaction_alone(bench, caller):
    await caller.run("SET SESSION synchronous_commit = off")
    await bench.signaller.store(caller.conn, 404)
    assert await caller.run("SHOW synchronous_commit") == "on"
    await caller.run("SET LOCAL synchronous_commit = remote_apply")
    await bench.signaller.store(caller.conn, 404)
    assert await caller.run("SHOW synchronous_commit") == "remote_apply"
    await caller.commit()
    assert [stored.refusal for stored in await outbox(bench)] == [None, None]


async def test_d8_a_setting_of_the_session_comes_back_after_the_commit(bench, ledger_url):
    async with with_psycopg(ledger_url) as caller:
        await caller.run("SET SESSION synchronous_commit = off")
        await caller.commit()
        await bench.signaller.store(caller.conn, 404)
        await caller.commit()
        assert await caller.run("SHOW synchronous_commit") == "off"


async def test_d8_an_open_transaction_holds_no_lock_that_a_job_needs(bench, caller):
    job_id, ended = await bench.insert(), await bench.insert()
    await bench.signaller.store_all(caller.conn, [job_id, ended], "stored")
    locked = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'public.oban_jobs'::regclass"
    assert await caller.run(locked) == 0
    # The queue goes on meanwhile.
    async with asyncio.timeout(10):
        await executing(bench, job_id)
        await bench.signaller.send(job_id, "sent")
        await bench.finish(ended, await executing(bench, ended), JobState.COMPLETED)
        assert await bench.store.relay() == 0
    assert await kinds(bench, job_id) == ["delivered"]
    await caller.commit()
    assert await bench.store.relay() == 2
    assert [recorded.payload for recorded in await bench.store.history(job_id)] == ["sent", "stored"]
    assert [(stored.job_id, stored.refusal) for stored in await outbox(bench)] == [(ended, "completed")]


async def test_d8_a_commit_sends_one_hint(bench, ledger_url):
    async with (
        await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as listener,
        with_psycopg(ledger_url) as caller,
    ):
        await listener.execute('LISTEN "public.oban_signal_ledger"')
        for _ in range(3):
            await bench.signaller.store(caller.conn, 404)
        assert [notify async for notify in listener.notifies(timeout=0)] == []
        await caller.commit()
        hints = [notify.payload async for notify in listener.notifies(timeout=10, stop_after=1)]
        hints += [notify.payload async for notify in listener.notifies(timeout=0)]
        assert hints == ['{"relay" : true}']


async def test_d8_a_savepoint_that_is_rolled_back_takes_its_signals_along(bench, ledger_url):
    job_id = await bench.insert()
    async with with_psycopg(ledger_url) as caller:
        await bench.signaller.store(caller.conn, job_id, 1)
        with contextlib.suppress(ZeroDivisionError):
            async with caller.conn.transaction():
                await bench.signaller.store(caller.conn, job_id, 2)
                raise ZeroDivisionError
        await bench.signaller.store(caller.conn, job_id, 3)
        await caller.commit()
    await bench.relay()
    assert [recorded.payload for recorded in await bench.store.history(job_id)] == [1, 3]


async def test_d8_without_a_transaction_storing_is_one(bench, ledger_url):
    job_ids = [await bench.insert() for _ in range(2)]
    plain = await asyncpg.connect(ledger_url)
    await bench.signaller.store_all(plain, job_ids, "asyncpg")
    await plain.close()
    async with await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as autocommit:
        await bench.signaller.store_all(autocommit, job_ids, "psycopg")
        await bench.relay()
    for job_id in job_ids:
        payloads = [recorded.payload for recorded in await bench.store.history(job_id)]
        assert payloads == ["asyncpg", "psycopg"]


async def test_d8_a_connection_to_another_database_is_refused(bench, database, cluster, template):
    """One without a ledger, and one with another ledger. The second one's transaction can even go on."""
    for open_caller in CALLERS.values():
        async with open_caller(database) as caller:
            with pytest.raises(ValueError, match="conn: expected a connection to the ledger's own database"):
                await bench.signaller.store(caller.conn, 404)
            await caller.rollback()
    await install(database, testing=False)
    for open_caller in CALLERS.values():
        async with open_caller(database) as caller:
            with pytest.raises(ValueError, match="'signal_ledger', got one to another database"):
                await bench.signaller.store(caller.conn, 404)
            assert await caller.run("SELECT count(*) FROM signal_ledger.outbox") == 0
            await caller.commit()


async def test_d8_the_schema_may_have_any_name(database):
    await install_oban(database)
    names = Names(schema='100% {} %s "$1"')
    await migrate(to_url(database), names)
    store = await PostgresStore.open(to_url(database), names)
    for number, open_caller in enumerate(CALLERS.values()):
        delivery = Deliver(job_id=404, signal_id=str(number), channel="", payload=b"\x83a\x01", payload_digest="0" * 64)
        async with open_caller(database) as caller:
            await store.store_with(caller.conn, [delivery])
            await caller.commit()
    assert len(await store.outbox(limit=100, after=None)) == len(CALLERS)
    await store.close()


async def test_d8_a_connection_that_is_not_asynchronous_is_refused(bench, ledger_url):
    with (
        psycopg.connect(ledger_url) as connection,
        pytest.raises(TypeError, match=r"conn: expected a SQLAlchemy AsyncSession .* got psycopg.Connection"),
    ):
        await bench.signaller.store(connection, 404)
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.connect() as connection:
        with pytest.raises(TypeError, match=r"or a psycopg AsyncConnection, got aiosqlite\.core\.Connection"):
            await bench.signaller.store(connection, 404)
    await engine.dispose()


async def test_d8_other_faults_of_the_connection_are_its_own_and_do_not_show_the_payload(bench, caller):
    with pytest.raises(Exception, match="division by zero"):
        await caller.run("SELECT 1 / 0")
    with pytest.raises(Exception, match="transaction is aborted") as fault:
        await bench.signaller.store(caller.conn, 404, SECRET)
    assert SECRET not in "".join(traceback.format_exception(fault.value))


async def test_d8_a_connection_elsewhere_does_not_show_the_payload_either(bench, database):
    for open_caller in CALLERS.values():
        async with open_caller(database) as caller:
            with pytest.raises(ValueError, match="conn: expected") as fault:
                await bench.signaller.store(caller.conn, 404, SECRET)
            assert SECRET not in "".join(traceback.format_exception(fault.value))
            await caller.rollback()


async def test_d8_a_scoped_session_is_refused(bench, ledger_url):
    """Which session it stands for depends on the task, and the signal is stored in one of its own."""
    engine = make_engine(ledger_url, "asyncpg")
    sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    with pytest.raises(TypeError, match=r"conn: expected a SQLAlchemy AsyncSession .*\.async_scoped_session$"):
        await bench.signaller.store(sessions, 404)
    await bench.signaller.store(sessions(), 404)
    await sessions.commit()
    await sessions.remove()
    await engine.dispose()
    assert len(await outbox(bench)) == 1


# The relay


async def relay_some(connection, most, most_bytes=1_000_000):
    cursor = await connection.execute("SELECT * FROM signal_ledger.relay(%s, %s)", [most, most_bytes])
    return await cursor.fetchone()


async def test_d8_rows_stay_in_call_order_though_several_relay_at_once(bench, ledger_url):
    """Many small batches, by four connections at a time: the log has the order of the calls."""
    job_ids = [await bench.insert() for _ in range(3)]
    async with bench.transaction() as conn:
        for number in range(150):
            await bench.signaller.store(conn, job_ids[number * number % 3], number)
    rounds = []

    async def relay_all(most):
        async with await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as connection:
            while (relayed := await relay_some(connection, most))[1]:
                rounds.append(relayed[0])

    await asyncio.gather(*[relay_all(most) for most in (1, 3, 4, 7)])
    log = [recorded.payload for recorded in await whole_log(bench)]
    assert log == list(range(150))
    # They did meet: one had to leave it to the other.
    assert 0 in rounds


async def test_d8_one_relay_works_at_a_time_and_the_others_do_not_wait(bench, ledger_url):
    """Also if they could take different jobs of different transactions."""
    job_ids = [await bench.insert() for _ in range(2)]
    for job_id in job_ids:
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, job_id)
    async with await psycopg.AsyncConnection.connect(ledger_url) as connection:
        assert await relay_some(connection, 1) == (1, True)
        async with asyncio.timeout(10):
            assert await bench.store.relay() == 0
        await connection.commit()
    assert await bench.store.relay() == 1
    assert [recorded.job_id for recorded in await whole_log(bench)] == job_ids


async def test_d8_a_relay_that_is_lost_is_made_up_for(bench, ledger_url):
    job_id = await bench.insert()
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, job_id)
        await bench.signaller.store(conn, 404)
    async with await psycopg.AsyncConnection.connect(ledger_url) as connection:
        assert await relay_some(connection, 10) == (2, False)
        await connection.rollback()
    assert await bench.store.relay() == 2
    assert await kinds(bench, job_id) == ["delivered"]
    assert [stored.refusal for stored in await outbox(bench)] == ["missing"]


async def test_d8_a_relay_waits_for_no_job_and_holds_what_stands_behind_it(bench, ledger_url):
    held, other, third = [await bench.insert() for _ in range(3)]
    async with await psycopg.AsyncConnection.connect(ledger_url) as connection:
        await connection.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held])
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, held, 1)
            await bench.signaller.store(conn, other, 2)
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, third, 3)
            await bench.signaller.store(conn, 404)
        async with asyncio.timeout(10):
            assert await bench.store.relay() == 2
    assert await kinds(bench, other) == []
    assert await kinds(bench, third) == ["delivered"]
    assert await bench.store.relay() == 2
    assert [recorded.payload for recorded in await whole_log(bench)] == [3, 1, 2]


async def test_d8_any_number_of_signals_to_a_held_job_hold_up_nobody_else(bench, ledger_url):
    held, other = await bench.insert(), await bench.insert()
    async with await psycopg.AsyncConnection.connect(ledger_url) as connection:
        await connection.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held])
        for _ in range(12):
            async with bench.transaction() as conn:
                await bench.signaller.store(conn, held)
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, other)
        async with await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as relaying:
            assert await relay_some(relaying, 3) == (1, True)
            assert await relay_some(relaying, 3) == (0, True)
    assert await kinds(bench, other) == ["delivered"]
    assert await bench.store.relay() == 12


async def test_d8_batches_are_bounded_in_rows_and_bytes(bench, ledger_url):
    job_id = await bench.insert()
    async with bench.transaction() as conn:
        for number in range(6):
            await bench.signaller.store(conn, job_id, b"x" * (1 if number % 2 else 1000))
    async with await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as connection:
        # The first one comes whatever its size, and no more once the bytes are reached.
        assert await relay_some(connection, 10, 1) == (1, True)
        assert await relay_some(connection, 10, 900) == (2, True)
        assert await relay_some(connection, 2) == (2, True)
        assert await relay_some(connection, 10) == (1, False)


async def test_d8_a_fault_with_one_signal_holds_up_its_own_transaction_alone(bench, admin):
    """The projection of one job lags behind its log, say: appending to it is refused."""
    broken, sound = await bench.insert(), await bench.insert()
    await bench.signaller.send(broken, 0)
    await admin.execute("UPDATE signal_ledger.waits SET version = 0 WHERE job_id = %s", [broken])
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, sound, 1)
        await bench.signaller.store(conn, broken, 2)
        await bench.signaller.store(conn, sound, 3)
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, sound, 4)
    for _ in range(2):
        await bench.relay()
        assert [recorded.payload for recorded in await bench.store.history(sound)] == [1, 4]
    assert [signal.job_id for signal in await outbox(bench)] == [broken, sound]
    await bench.store.rebuild()
    await admin.execute("UPDATE signal_ledger.outbox SET retry_at = clock_timestamp()")
    await bench.relay()
    assert [recorded.payload for recorded in await bench.store.history(broken)] == [0, 2]
    assert [recorded.payload for recorded in await bench.store.history(sound)] == [1, 4, 3]
    assert await outbox(bench) == []


@pytest.mark.parametrize(
    ("payload", "key", "message"),
    [
        (b"\x83a\x01", "k" * 256, "key must have 1 to 255 bytes"),
        (b"\x83a\x01", "", "key must have 1 to 255 bytes"),
        (b"a", None, "payload must be in Erlang's external term format"),
    ],
)
async def test_d8_what_no_signal_can_have_is_refused_where_it_is_stored(admin, payload, key, message):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
        await admin.execute(
            "SELECT signal_ledger.store(signal_ledger.identity(), ARRAY[1::bigint], "
            "ARRAY[gen_random_uuid()::text], ARRAY[''], '', %s, repeat('0', 64), %s, NULL)",
            [payload, key],
        )


async def test_d8_a_row_that_an_operator_deletes_is_left_alone(bench, ledger_url):
    job_id = await bench.insert()
    async with bench.transaction() as conn:
        unwanted = await bench.signaller.store(conn, job_id, "unwanted")
        await bench.signaller.store(conn, job_id, "wanted")
    async with await psycopg.AsyncConnection.connect(ledger_url) as connection:
        await connection.execute("DELETE FROM signal_ledger.outbox WHERE signal_id = %s", [unwanted.signal_id])
        async with asyncio.timeout(10):
            assert await bench.store.relay() == 1
    assert await bench.store.relay() == 0
    assert [recorded.payload for recorded in await bench.store.history(job_id)] == ["wanted"]


async def test_l8_a_signal_for_a_stream_of_a_newer_library_is_left_to_that_one(bench, admin):
    newer, other = await bench.insert(), await bench.insert()
    await bench.signaller.send(newer)
    await admin.execute("UPDATE signal_ledger.waits SET schema_version = 3")
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, newer, 1)
        await bench.signaller.store(conn, other, 2)
    # However many there are, they do not stand in the way of others.
    assert await relay_some(admin, 1) == (1, False)
    assert await kinds(bench, other) == ["delivered"]
    assert [(stored.job_id, stored.refusal) for stored in await outbox(bench)] == [(newer, None)]
    await admin.execute("UPDATE signal_ledger.waits SET schema_version = 1")
    assert await bench.store.relay() == 1
    assert await kinds(bench, newer) == ["delivered", "delivered"]


async def test_d8_an_idle_relay_writes_nothing(bench, admin):
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, 404)
    await bench.relay()

    async def written():
        return (await (await admin.execute("SELECT pg_current_wal_insert_lsn()")).fetchone())[0]

    # The first one may still set hint bits; checkpoints and autovacuum may write at any time, so the lowest counts.
    amounts = []
    for _ in range(5):
        before = await written()
        assert await bench.store.relay() == 0
        amounts.append((await written()) == before)
    assert any(amounts)


async def test_d8_the_ledgers_own_store_relays_what_several_processes_have_stored(bench, ledger_url):
    """Two stores, as two processes have them, store and relay at the same time."""
    job_ids = [await bench.insert() for _ in range(2)]
    other = await PostgresStore.open(to_url(ledger_url), Names())
    signallers = [bench.signaller, Signaller(other)]
    signallers[1]._calls = 1000

    async def store_and_relay(signaller, store, place):
        for number in range(20):
            async with bench.transaction() as conn:
                for job_id in job_ids:
                    await signaller.store(conn, job_id, [place, number])
            await store.relay()

    await asyncio.gather(
        store_and_relay(signallers[0], bench.store, 0),
        store_and_relay(signallers[1], other, 1),
    )
    await bench.store.relay()
    await other.close()
    for job_id in job_ids:
        payloads = [recorded.payload for recorded in await bench.store.page(EventFilter(job_id=job_id), 100)]
        for place in range(2):
            assert [number for by, number in payloads if by == place] == list(range(20))
