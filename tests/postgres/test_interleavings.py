"""What several connections do at once, made to happen by locks: no sleeps (D2, D6, W7, L4, L5)."""

import asyncio
import contextlib
import random
from collections import Counter
from datetime import UTC, datetime

import psycopg
import pytest

from signal_ledger import KeyConflict, open_ledger
from signal_ledger.codec import encode
from signal_ledger.ports import EventFilter
from signal_ledger.testing.bench import take
from signal_ledger.testing.contract.steps import executing, kinds
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.eventually import eventually
from tests.postgres.locks import waiting_backends
from tests.postgres.proxy import proxy


class Database:
    """Connections that hold locks, and one that looks who waits for whom."""

    def __init__(self, url, stack):
        self.url = url
        self._stack = stack
        self._looker = stack.enter_context(psycopg.connect(url, autocommit=True))

    def run(self, sql, *parameters):
        cursor = self._looker.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else None

    def insert(self, count=1):
        found = self.run("INSERT INTO oban_jobs (worker) SELECT 'w' FROM generate_series(1, %s) RETURNING id", count)
        return sorted(job_id for [job_id] in found)

    def connect(self):
        return self._stack.enter_context(psycopg.connect(self.url))

    def holding(self, job_id):
        """A connection that has the lock on a job until it commits."""
        gate = self.connect()
        gate.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [job_id])
        return gate

    def waiters(self, gate):
        """Which sessions wait for one, directly or for another one that does."""
        return {
            pid
            for [pid] in self.run(
                "WITH RECURSIVE behind AS (SELECT %s::int AS pid "
                "UNION SELECT a.pid FROM pg_stat_activity AS a, behind AS b "
                "WHERE b.pid = ANY (pg_blocking_pids(a.pid))) SELECT pid FROM behind OFFSET 1",
                gate.info.backend_pid,
            )
        }

    async def until_waiting(self, gate, count):
        await eventually(lambda: len(self.waiters(gate)) == count, what=f"{count} sessions wait")


@pytest.fixture
def database(ledger_url):
    with contextlib.ExitStack() as stack:
        yield Database(ledger_url, stack)


@pytest.fixture
async def ledgers(ledger_url):
    """Two callers with connections of their own; in the end the log must be whole."""
    async with open_ledger(ledger_url) as one, open_ledger(ledger_url) as other:
        yield one, other
        report = await one.verify()
        assert report.ok, str(report)


# Locks.


async def test_d2_lists_in_opposite_orders_wait_for_one_another_and_never_deadlock(database, ledgers, caplog):
    caplog.set_level("DEBUG", "signal_ledger_adapters")
    job_ids = database.insert(6)
    # The table's own order is another one, too.
    database.run("UPDATE oban_jobs SET priority = 1 WHERE id = ANY (%s)", job_ids[:2])
    gate = database.holding(job_ids[3])
    one = asyncio.create_task(ledgers[0].signal(job_ids, "one"))
    await database.until_waiting(gate, 1)
    other = asyncio.create_task(ledgers[1].signal(job_ids[::-1], "other"))
    await database.until_waiting(gate, 2)
    gate.commit()
    # Who waits gives way now and then, so either may be first; but it is so for all jobs.
    versions = [{receipt.version for receipt in await call} for call in (one, other)]
    assert sorted(versions, key=min) == [{1}, {2}]
    assert "is run again" not in caplog.text


async def test_d2_a_list_is_locked_in_ascending_order_whatever_the_tables_own_order_is(database, ledgers, caplog):
    """As the acknowledgements of jobs are, which do not wait for a list that waits for them."""
    caplog.set_level("DEBUG", "signal_ledger_adapters")
    for way in ("indexscan", "indexonlyscan", "bitmapscan"):
        database.run(
            f"ALTER DATABASE {psycopg.conninfo.conninfo_to_dict(database.url)['dbname']} SET enable_{way} = off"
        )
    job_ids = database.insert(6)
    database.run("UPDATE oban_jobs SET priority = 1 WHERE id = ANY (%s)", job_ids[:2])
    assert [job_id for [job_id] in database.run("SELECT id FROM oban_jobs")] == job_ids[2:] + job_ids[:2]
    async with open_ledger(database.url) as ledger:
        gate = database.holding(job_ids[0])
        call = asyncio.create_task(ledger.signal(job_ids, 1))
        await database.until_waiting(gate, 1)
        gate.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE NOWAIT", [job_ids[5]])
        gate.commit()
        assert [receipt.version for receipt in await call] == [1] * 6
    assert "is run again" not in caplog.text


async def test_d6_two_signals_with_one_key_at_once_are_one(database, ledgers):
    [job_id] = database.insert()
    gate = database.holding(job_id)
    calls = [asyncio.create_task(ledger.signal(job_id, {"n": 1}, key="k")) for ledger in ledgers]
    await database.until_waiting(gate, 2)
    gate.commit()
    told = await asyncio.gather(*calls)
    assert Counter(receipt.outcome for receipt in told) == {"buffered": 1, "duplicate": 1}
    assert len({(receipt.signal_id, receipt.version) for receipt in told}) == 1
    assert len(await ledgers[0].history(job_id)) == 1


async def test_d6_two_signals_with_one_key_and_different_payloads_at_once_conflict(database, ledgers):
    [job_id, other] = database.insert(2)
    gate = database.holding(job_id)
    calls = [
        asyncio.create_task(ledger.signal([other, job_id], number, key="k")) for number, ledger in enumerate(ledgers)
    ]
    await database.until_waiting(gate, 2)
    gate.commit()
    told = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(one) for one in told if not isinstance(one, list)) == [KeyConflict]
    assert [len(await ledgers[0].history(one)) for one in (job_id, other)] == [1, 1]


async def test_w7_no_event_is_recorded_before_its_turn(database, ledgers):
    """Who waits for the lock on a job is stamped when it has it."""
    job_ids = database.insert(2)
    gate = database.holding(job_ids[1])
    waiting = asyncio.create_task(ledgers[0].signal(job_ids, 1))
    await database.until_waiting(gate, 1)
    [[between]] = database.run("SELECT clock_timestamp()")
    gate.commit()
    await waiting
    for job_id in job_ids:
        assert (await ledgers[0].history(job_id))[0].recorded_at > between


# Replies and connections that are lost.


@pytest.fixture
async def through_proxy(cluster, ledger_url):
    """A ledger whose connections lead through a proxy, which has delivered one signal already."""
    async with proxy(cluster.folder, cluster.port) as (it, folder):
        url = ledger_url.replace(f"host={cluster.folder}", f"host={folder}")
        assert url != ledger_url
        async with open_ledger(url) as ledger:
            [[job_id]] = run(ledger_url, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
            await ledger.signal([job_id], "opens the connection", key="k")
            yield it, ledger
            report = await ledger.verify()
            assert report.ok, str(report)


def run(url, sql):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("losses", [1, 3])
async def test_d6_a_lost_reply_is_asked_for_again_and_is_the_same(database, through_proxy, key, losses):
    it, ledger = through_proxy
    job_ids = database.insert(3)
    it.loses = losses
    told = await ledger.signal(job_ids, "once", key=key)
    assert it.lost == losses
    assert [(receipt.outcome, receipt.version) for receipt in told] == [("buffered", 1)] * 3
    for receipt in told:
        [event] = await ledger.history(receipt.job_id)
        assert event.signal_id == receipt.signal_id


async def test_d6_a_session_that_ends_before_the_commit_has_delivered_nothing_yet(database, ledgers):
    [job_id] = database.insert()
    gate = database.holding(job_id)
    call = asyncio.create_task(ledgers[0].signal(job_id, "once"))
    await database.until_waiting(gate, 1)
    [first] = database.waiters(gate)
    database.run("SELECT pg_terminate_backend(%s)", first)
    await eventually(lambda: database.waiters(gate) not in ({first}, set()), what="the call is tried again")
    gate.commit()
    assert ((await call).outcome, (await call).version) == ("buffered", 1)
    assert len(await ledgers[0].history(job_id)) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        (b"57P03", b"the database system is starting up"),
        (b"53300", b"sorry, too many clients already"),
        (b"57P01", b"terminating connection due to administrator command"),
        (b"08006", b"connection failure"),
    ],
)
async def test_d1_a_server_that_restarts_is_waited_for(database, through_proxy, refusal):
    it, ledger = through_proxy
    [job_id] = database.insert()
    it.refusals = [refusal] * 3
    database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert (await ledger.signal(job_id, 1)).outcome == "buffered"
    assert it.refused == 3


async def test_l3_a_rebuild_does_not_undo_the_repair_of_a_job_that_is_gone(bench, ledger_url):
    """There is no job to lock; its state is locked instead."""
    job_id = await bench.insert()
    await take(bench, job_id, await executing(bench, job_id))
    with psycopg.connect(ledger_url) as deleting:
        deleting.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        deleting.execute("DELETE FROM oban_jobs WHERE id = %s", [job_id])
    with psycopg.connect(ledger_url) as repairing:
        assert repairing.execute("SELECT signal_ledger.repair(10)").fetchone() == (1,)
        rebuilding = asyncio.create_task(bench.store.rebuild())
        await eventually(lambda: waiting_backends(ledger_url))
    assert await rebuilding == 1
    assert await kinds(bench, job_id) == ["awaited", "closed"]
    assert (await bench.store.state(job_id)).status == "closed"


# The order of the log.


def signal(connection, job_id, payload=1):
    connection.execute("SELECT signal_ledger.signal(%s, %s)", [job_id, encode(payload)])


def begin(connection):
    """Begin a transaction that has an id."""
    connection.execute("SELECT pg_current_xact_id()")


async def versions(ledger, **options):
    return [(event.job_id, event.version) async for event in ledger.events(**options)]


async def test_l4_a_stream_comes_in_order_though_an_older_transaction_wrote_later(database, ledgers):
    ledger, _ = ledgers
    [job_id, other] = database.insert(2)
    older, younger = database.connect(), database.connect()
    begin(older)
    signal(older, other)
    signal(younger, job_id)
    younger.commit()
    # What is committed is shown when nothing can come before it any more.
    assert await versions(ledger) == []
    signal(older, job_id)
    older.commit()
    assert database.run("SELECT count(*) FROM signal_ledger.events WHERE turn <> xmin::text::bigint") == [(1,)]
    assert await versions(ledger) == [(other, 1), (job_id, 1), (job_id, 2)]
    cursors = [event.cursor async for event in ledger.events()]
    assert await versions(ledger, after=cursors[1]) == [(job_id, 2)]
    assert (await ledger.state(job_id, cursor=cursors[1])).version == 1
    assert (await ledger.state(job_id, cursor=cursors[2])).version == 2


async def test_l4_a_follower_skips_nothing_however_transactions_interleave(database):
    """Transactions begin, signal, commit and roll back in a random order, and somebody reads on after each step."""
    rng = random.Random(7)
    job_ids = database.insert(4)
    connections = [database.connect() for _ in range(5)]
    store = await PostgresStore.open(to_url(database.url), Names(), read_only=True)
    seen, cursor, withheld = [], None, 0

    async def read_on():
        nonlocal cursor
        while page := await store.page(EventFilter(after=cursor), 3):
            seen.extend((event.job_id, event.version) for event in page)
            cursor = page[-1].cursor

    try:
        for _ in range(800):
            step(rng, rng.choice(connections), rng.choice(job_ids))
            await read_on()
            withheld += len(seen) < database.run("SELECT count(*) FROM signal_ledger.events")[0][0]
        for connection in connections:
            connection.commit()
        await read_on()
    finally:
        await store.close()
    assert Counter(seen) == Counter(database.run("SELECT job_id, version FROM signal_ledger.events"))
    for job_id in job_ids:
        own = [version for job, version in seen if job == job_id]
        assert own == list(range(1, len(own) + 1))
    # A run in which transactions did not get in each other's way proves little.
    [[late]] = database.run("SELECT count(*) FROM signal_ledger.events WHERE turn <> xmin::text::bigint")
    assert late > 10
    assert withheld > 100


def step(rng, connection, job_id):
    """Do something in a transaction."""
    match rng.choice(["begin", "signal", "signal", "signal", "undone", "commit", "commit", "rollback"]):
        case "begin":
            begin(connection)
        case "signal" | "undone" as action:
            # Left out if it would wait.
            lock = "SELECT FROM oban_jobs WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED"
            with connection.transaction(force_rollback=action == "undone"):
                if connection.execute(lock, [job_id]).fetchall():
                    signal(connection, job_id)
        case "commit":
            connection.commit()
        case "rollback":
            connection.rollback()


async def test_l4_following_shows_each_event_once_it_is_settled(database, ledgers):
    ledger, _ = ledgers
    [job_id, other] = database.insert(2)
    older = database.connect()
    begin(older)
    await ledger.signal(job_id, "younger")
    following = ledger.follow()
    first = asyncio.ensure_future(anext(following))
    await ledger.signal(job_id, "and another")
    assert await versions(ledger) == []
    signal(older, other, "older")
    older.commit()
    shown = [await first, await anext(following), await anext(following)]
    assert [event.payload for event in shown] == ["older", "younger", "and another"]
    await following.aclose()


# States of the past.


def now():
    return datetime.now(UTC)


async def test_l5_a_state_is_provisional_as_long_as_an_event_of_that_time_may_come(database, ledgers):
    ledger, _ = ledgers
    [job_id, other] = database.insert(2)
    writing = database.connect()
    signal(writing, job_id)
    instant = now()
    then = await ledger.state(job_id, at=instant)
    assert (then.version, then.provisional) == (0, True)
    # Of another job, too: nobody knows what the transaction has done.
    assert (await ledger.state(other, at=instant)).provisional
    writing.commit()
    then = await ledger.state(job_id, at=instant)
    assert (then.version, then.provisional) == (1, False)


async def test_l5_a_transaction_that_began_later_does_not_make_it_provisional(database, ledgers):
    ledger, _ = ledgers
    [job_id, _] = database.insert(2)
    await ledger.signal(job_id, 1)
    reading = database.connect()
    reading.execute("SELECT count(*) FROM signal_ledger.events")
    instant = now()
    later = database.connect()
    signal(later, job_id)
    then = await ledger.state(job_id, at=instant)
    assert (then.version, then.provisional) == (1, False)


async def test_l5_one_that_read_before_and_writes_afterwards_stamps_afterwards(database, ledgers):
    """It does not count until it writes, and then it is too late for an event of that time."""
    ledger, _ = ledgers
    [job_id] = database.insert()
    early = database.connect()
    early.execute("SELECT count(*) FROM signal_ledger.events")
    instant = now()
    assert not (await ledger.state(job_id, at=instant)).provisional
    signal(early, job_id)
    early.commit()
    assert (await ledger.history(job_id))[0].recorded_at > instant
    assert (await ledger.state(job_id, at=instant)).version == 0


async def test_l5_one_that_waits_for_a_lock_stamps_when_it_has_it(database, ledgers):
    """It has an id before the instant, so it counts, although it stamps afterwards: better safe."""
    ledger, other = ledgers
    [first, second] = database.insert(2)
    gate = database.holding(second)
    waiting = asyncio.create_task(other.signal([first, second], 1))
    await database.until_waiting(gate, 1)
    instant = now()
    assert (await ledger.state(first, at=instant)).provisional
    gate.commit()
    await waiting
    then = await ledger.state(first, at=instant)
    assert (then.version, then.provisional) == (0, False)


async def test_l5_the_future_is_provisional(database, ledgers):
    [job_id] = database.insert()
    assert (await ledgers[0].state(job_id, at=datetime(2999, 1, 1, tzinfo=UTC))).provisional
