"""Pages of the log and of who waits: exact, and none dearer in a long log, whatever the planner thinks."""

import asyncio
import json
from collections import Counter
from datetime import timedelta
from itertools import product

import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from signal_ledger import Workflow
from signal_ledger import ledger as ledgers
from signal_ledger.ledger import Ledger
from signal_ledger.stored import StoredEvent
from signal_ledger.testing.bench import take
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore
from signal_ledger_adapters.queries import FEW_WAITS_MAX
from tests.effort import share_of
from tests.eventually import eventually
from tests.logs import BEGIN, MIXTURES, Mixture, ask, rows_of
from tests.postgres.locks import waiting_backends
from tests.postgres.test_plans import EXPLAIN, looked_at

LONG = 12_000
QUESTIONS_A_LOG = 15

TIMES = [{}, {"since": BEGIN + timedelta(minutes=5)}, {"until": BEGIN + timedelta(minutes=5)}]
CHOICES = [
    {},
    {"kinds": {"closed"}},
    {"kinds": {"delivered"}},
    {"kinds": {"delivered", "closed", "timed_out"}},
    {"channel": "rare"},
    {"channel": ""},
    {"channel": "", "kinds": {"delivered"}},
    {"channel": "a", "kinds": {"delivered", "snoozed", "closed"}},
    {"source": "rare"},
    {"source": "rare", "channel": ""},
    {"source": "rare", "kinds": {"delivered", "closed"}},
]
ASKED = [{**choice, **times} for choice, times in product(CHOICES, TIMES)]

# What is rare comes in one stretch, so that the log is long beside it.
MIXED = Mixture(seed=1, size=LONG, deliveries=0.5, unnamed=0.5, step=0.0)
NO_DELIVERIES = Mixture(seed=1, size=LONG, deliveries=0.0, unnamed=0.5, step=0.0)
NO_DEFAULT = Mixture(seed=1, size=LONG, deliveries=0.5, unnamed=0.0, step=0.0)

COLUMNS = ", ".join(StoredEvent._fields)
COPY_AT_ONCE = 400


async def fill(url, rows, *, at_once=COPY_AT_ONCE, blocks=True):
    """Put rows into the log, some in each transaction, and write their blocks."""
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER TABLE signal_ledger.events DISABLE TRIGGER append_in_turn")
    for first in range(0, len(rows), at_once):
        async with connection.transaction():
            turn = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
            await connection.copy_records_to_table(
                "events",
                schema_name="signal_ledger",
                columns=["turn", *StoredEvent._fields],
                records=[(turn, *row) for row in rows[first : first + at_once]],
            )
    await connection.execute("ALTER TABLE signal_ledger.events ENABLE TRIGGER append_in_turn")
    while blocks and await connection.fetchval("SELECT signal_ledger.write_blocks(3)"):
        pass
    await connection.close()


# What is found


@pytest.mark.timeout(900)
def test_l4_every_question_is_answered_as_by_a_look_at_every_event(ledger_url, monkeypatch):
    reached = Counter()

    # The same ones each time, so that what they reach is no matter of luck; others are drawn in property_tests.
    @settings(max_examples=share_of(30), derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(MIXTURES, st.sampled_from([1, 7, 500]), st.sampled_from([100, 256, 5000]), st.booleans(), st.data())
    def check(mixture, page, at_once, blocks, data):
        monkeypatch.setattr(ledgers, "_PAGE", page)

        async def answers():
            rows = rows_of(mixture)
            with psycopg.connect(ledger_url, autocommit=True) as connection:
                connection.execute("SELECT signal_ledger.reset()")
            await fill(ledger_url, rows, at_once=at_once, blocks=blocks)
            store = await PostgresStore.open(to_url(ledger_url), Names())
            try:
                await ask(Ledger(store, None), rows, data, QUESTIONS_A_LOG, reached)
            finally:
                # Hypothesis may end an example where it draws.
                await store.close()

        asyncio.run(answers())

    check()
    assert reached["answered"]
    assert reached["in several pages"]


async def test_few_and_many_waits_that_end_are_listed_alike(bench):
    count = FEW_WAITS_MAX + 5
    add_waits(bench, "SELECT n, '', 5000 - n / 2, n FROM generate_series(0, %s) AS n", [count - 1])
    ledger = Ledger(bench.store, None)
    for ended, channel in product((3, FEW_WAITS_MAX, FEW_WAITS_MAX + 1, count), (None, "")):
        read, after = [], None
        while rows := await ledger.waiting(
            deadline_before=BEGIN + timedelta(seconds=ended), limit=ended // 2 + 1, after=after, channel=channel
        ):
            read += [(row.since, row.job_id) for row in rows]
            after = rows[-1].cursor
        assert len(read) == ended
        assert read == sorted(read)


def add_waits(bench, waits, parameters=()):
    """Add waits, given by job, channel, and the seconds of when they began and end."""
    bench._connection.execute(
        "INSERT INTO signal_ledger.waits (job_id, run, version, status, current, ordinal, since, deadline_at, "
        "execution, waits, inboxes, schema_version) SELECT w.job_id, 1, 1, 'snoozed', w.channel, 1, "
        "timestamptz '2026-01-01 00:00Z' + w.since * interval '1 s', "
        "timestamptz '2026-01-01 00:00Z' + w.ends * interval '1 s', 1, '{}', '{}', 1 "
        f"FROM ({waits}) AS w (job_id, channel, since, ends)",
        parameters,
    )


# What is looked at


class Seen:
    """What the statements of a store look at in the tables, as the server tells by its notices."""

    def __init__(self):
        self.plans = []

    @classmethod
    async def of(cls, bench):
        seen, engine = cls(), bench.store._engine
        # Connections that are opened from now on.
        await engine.dispose()
        event.listen(engine.sync_engine, "connect", seen._connected)
        return seen

    def _connected(self, connection, _record):
        connection.run_async(self._explain)

    async def _explain(self, driver):
        await driver.execute(EXPLAIN)
        driver.add_log_listener(lambda _driver, notice: self._keep(notice))

    def _keep(self, notice):
        _, is_plan, plan = notice.message.partition("plan:\n")
        if is_plan:
            self.plans.append(json.loads(plan))

    def rows(self):
        return sum(rows for _, rows in looked_at(self))

    def compiled(self):
        """Return the plans that the server compiled, which takes longer than a page; not all servers can."""
        return [plan for plan in self.plans if "JIT" in plan]


STATISTICS = ["none", "of an empty log", "of a short log", "of all"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("mixture", [MIXED, NO_DELIVERIES, NO_DEFAULT])
async def test_a_page_looks_at_little_more_than_it_finds(bench, ledger_url, monkeypatch, mixture, statistics):
    monkeypatch.setattr(ledgers, "_PAGE", 100)
    run = bench._connection.execute
    run("ALTER TABLE signal_ledger.events SET (autovacuum_enabled = false)")
    run("ALTER TABLE signal_ledger.blocks SET (autovacuum_enabled = false)")
    rows = rows_of(mixture)
    short = 300 if statistics == "of a short log" else 0
    await fill(ledger_url, rows[:short])
    if statistics not in ("none", "of all"):
        run("ANALYZE signal_ledger.events, signal_ledger.blocks")
    await fill(ledger_url, rows[short:])
    if statistics == "of all":
        run("ANALYZE signal_ledger.events, signal_ledger.blocks")
    seen, ledger = await Seen.of(bench), Ledger(bench.store, None)
    middle = [recorded async for recorded in ledger.events(until=BEGIN + timedelta(minutes=2))][-1].cursor
    for question, after in product(ASKED, (None, middle)):
        if mixture is NO_DEFAULT and "source" in question and "channel" in question:
            # Of a source all deliveries are looked at for their channel.
            continue
        seen.plans.clear()
        async for _ in ledger.events(**question, after=after):
            break
        assert seen.plans
        # A page of each of five kinds, and the blocks at both ends.
        assert seen.rows() < 1500, (question, after, looked_at(seen))
        assert not seen.compiled(), question


async def test_the_log_is_long_enough_to_tell_a_page_from_a_scan():
    assert LONG > 5 * 1500


@pytest.mark.parametrize("statistics", ["none", "of none", "of all"])
async def test_pages_of_who_waits_are_as_dear_among_many(bench, statistics):
    run = bench._connection.execute
    run("ALTER TABLE signal_ledger.waits SET (autovacuum_enabled = false)")
    if statistics == "of none":
        run("ANALYZE signal_ledger.waits")
    add_waits(
        bench, "SELECT n, CASE mod(n, 1000) WHEN 0 THEN 'rare' ELSE '' END, n, 80000 FROM generate_series(1, 19999) n"
    )
    add_waits(bench, "SELECT n, 'rare', n, n + 1 FROM generate_series(20000, 20002) AS n")
    if statistics == "of all":
        run("ANALYZE signal_ledger.waits")
    seen, ledger = await Seen.of(bench), Ledger(bench.store, None)
    soon = BEGIN + timedelta(seconds=30_000)
    first, *_, late = [row.cursor for row in await ledger.waiting(limit=10_000)]
    for question, count in (
        ({}, 100),
        ({"channel": "rare"}, 22),
        ({"channel": ""}, 100),
        ({"deadline_before": soon}, 3),
        ({"deadline_before": soon, "channel": "rare"}, 3),
        ({"deadline_before": soon, "channel": ""}, 0),
        # Most of them: they are met soon among all, also those behind many.
        ({"deadline_before": BEGIN + timedelta(days=1)}, 100),
        ({"deadline_before": BEGIN + timedelta(days=1), "channel": "rare"}, 22),
    ):
        for after in (None, first):
            seen.plans.clear()
            assert len(await ledger.waiting(**question, after=after)) == count
            assert 0 < seen.rows() < FEW_WAITS_MAX + 200, (question, looked_at(seen))
        seen.plans.clear()
        await ledger.waiting(**question, after=late)
        assert seen.rows() < FEW_WAITS_MAX + 200, (question, looked_at(seen))


async def test_other_questions_may_sort(bench):
    """Else a few rows would be sorted by a walk through all of an index."""
    asking = bench.store._asking
    for in_order in (True, False, True):
        async with asking.connection(in_order=in_order) as connection:
            assert await connection.scalar(text("SHOW enable_sort")) == ("off" if in_order else "on")


async def test_the_pages_of_a_long_stream_begin_where_they_do(bench, ledger_url, monkeypatch):
    monkeypatch.setattr(ledgers, "_PAGE", 100)
    rows = [row for row in rows_of(MIXED) if row.job_id == 1]
    await fill(ledger_url, rows)
    seen, ledger = await Seen.of(bench), Ledger(bench.store, None)
    history = await ledger.history(1)
    for place in (0, len(rows) // 2, len(rows) - 200):
        seen.plans.clear()
        async for recorded in ledger.events(job_id=1, after=history[place].cursor):
            assert recorded.version == place + 2
            break
        assert 0 < seen.rows() < 150, looked_at(seen)


WORKFLOWS = 1000
FLOW_TABLES = ("oban_jobs", "signal_ledger.steps", "signal_ledger.edges", "signal_ledger.waits")

# In each workflow "last" depends on two others, one of which has completed. All have the same names.
ADD_WORKFLOWS = """
SET session_replication_role = replica;
INSERT INTO oban_jobs (id, worker, state) OVERRIDING SYSTEM VALUE
SELECT n * 3 + s.number, 'tests.Worker', s.state::oban_job_state FROM NUMBERS AS n,
    (VALUES (0, 'available'), (1, 'completed'), (2, 'suspended')) AS s (number, state);
INSERT INTO signal_ledger.steps (workflow_id, name, job_id, plan, held, planned_at, ended_as, ended_at)
SELECT 'w' || n, s.name, n * 3 + s.number, signal_ledger.plan_text('w' || n, NULL, s.name, s.deps::text[], '{}'),
       s.held, timestamptz '2026-01-01Z', s.ended_as, s.ended_at::timestamptz
FROM NUMBERS AS n, (VALUES
    (0, 'first', '{}', 0, NULL, NULL), (1, 'second', '{}', 0, 'completed', '2026-01-01Z'),
    (2, 'last', '{first,second}', 1, NULL, NULL)) AS s (number, name, deps, held, ended_as, ended_at);
INSERT INTO signal_ledger.edges (workflow_id, dep, name, ended_as)
SELECT 'w' || n, d.dep, 'last', d.ended_as FROM NUMBERS AS n,
    (VALUES ('first', NULL), ('second', 'completed')) AS d (dep, ended_as);
SET session_replication_role = origin;
"""


@pytest.mark.parametrize("statistics", STATISTICS)
async def test_the_status_of_a_workflow_looks_at_its_own_steps_only(bench, statistics):
    def add(first, last):
        numbers = f"generate_series({first}, {last})"
        bench._connection.execute(ADD_WORKFLOWS.replace("NUMBERS", numbers))
        add_waits(bench, f"SELECT n * 3, '', n, 80000 FROM {numbers} AS n")

    for table in FLOW_TABLES:
        bench._connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    few = 10 if statistics == "of a short log" else 0
    add(1, few)
    if statistics not in ("none", "of all"):
        bench._connection.execute(f"ANALYZE {', '.join(FLOW_TABLES)}")
    add(few + 1, WORKFLOWS)
    if statistics == "of all":
        bench._connection.execute(f"ANALYZE {', '.join(FLOW_TABLES)}")
    seen, ledger = await Seen.of(bench), Ledger(bench.store, None)
    workflow = await Workflow.load(f"w{WORKFLOWS // 2}", via=ledger)
    # The driver asks once what arrays are.
    await workflow.waiting()
    seen.plans.clear()
    status = await workflow.status()
    assert status.counts == {"available": 1, "completed": 1, "suspended": 1}
    assert status.held == {"last": ("first",)}
    # Three steps, their jobs, and two edges.
    assert 0 < seen.rows() < 20, looked_at(seen)
    seen.plans.clear()
    assert [waiting.name for waiting in await workflow.waiting()] == ["first"]
    assert 0 < seen.rows() < 20, looked_at(seen)


# What it costs those who write


async def test_what_happens_to_a_wait_leaves_its_row_where_it_is(bench):
    """Its updates are such that no index has to hear of them (HOT), as without indexes for auditors."""
    job_id = await bench.insert()
    execution = await bench.fetch(job_id)
    await take(bench, job_id, execution)
    run = bench._connection.execute
    counts = (
        "SELECT pg_stat_get_xact_tuples_updated(w), pg_stat_get_xact_tuples_hot_updated(w) "
        "FROM (SELECT 'signal_ledger.waits'::regclass) AS waits (w)"
    )
    for what in ("snooze", "wake", "buffer"):
        with bench._connection.transaction():
            if what == "snooze":
                assert await bench.sleep(job_id, execution)
            else:
                run("SELECT signal_ledger.signal(%s, '\\x836a')", [job_id])
            [(updated, hot)] = run(counts).fetchall()
            assert 0 < updated == hot, what
    assert [recorded.outcome for recorded in await bench.store.history(job_id)] == [None, None, "woken", "buffered"]


# The blocks


def blocks_of(bench):
    return bench._connection.execute("SELECT * FROM signal_ledger.blocks ORDER BY turn, position").fetchall()


async def findings(bench):
    report = await Ledger(bench.store, None).verify()
    return [str(finding) for finding in report.findings if finding.job_id is None]


async def test_the_sweeper_writes_the_blocks_of_what_is_settled(bench, ledger_url):
    rows = rows_of(Mixture(seed=3, size=1100, deliveries=0.5, unnamed=0.5, step=0.05))
    await fill(ledger_url, rows[:255], blocks=False)
    await bench.store.tick()
    assert blocks_of(bench) == []
    async with await psycopg.AsyncConnection.connect(ledger_url) as busy:
        await busy.execute("SELECT pg_current_xact_id()")
        await fill(ledger_url, rows[255:300], blocks=False)
        await bench.store.tick()
        assert blocks_of(bench) == []
    await bench.store.tick()
    [(_, position, low, high, delivered, unnamed, peak, crest)] = blocks_of(bench)
    times = sorted(row.recorded_at for row in rows[:256])
    assert (position, low, high, peak, crest) == (256, times[0], times[-1], times[-1], times[0])
    assert delivered == sum(row.kind == "delivered" for row in rows[:256])
    assert unnamed == sum(row.kind == "delivered" and row.channel == "" for row in rows[:256])
    await fill(ledger_url, rows[300:], blocks=False)
    await asyncio.gather(*[bench.store.tick() for _ in range(3)])
    assert [block[1] for block in blocks_of(bench)] == [256, 512, 768, 1024]
    assert await findings(bench) == []


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("UPDATE signal_ledger.blocks SET high = low WHERE position = 512", "_512"),
        ("UPDATE signal_ledger.blocks SET delivered = 0 WHERE position = 768", "1 block that say otherwise"),
        ("UPDATE signal_ledger.blocks SET peak = '2020-01-01' WHERE position = 256", "_256"),
        ("DELETE FROM signal_ledger.blocks WHERE position = 512", "_768"),
    ],
)
async def test_l3_altered_blocks_are_found_and_rebuilt(bench, ledger_url, sql, found):
    await fill(ledger_url, rows_of(Mixture(seed=3, size=1100, deliveries=0.5, unnamed=0.5, step=0.05)))
    before = blocks_of(bench)
    assert len(before) == 4
    bench._connection.execute(sql)
    [told] = await findings(bench)
    assert told.startswith("the log: L3 projection: expected blocks that say what the log holds")
    assert found in told
    await bench.store.rebuild()
    assert blocks_of(bench) == before
    assert await findings(bench) == []


async def send_four_blocks(bench):
    job_ids = [await bench.insert() for _ in range(256)]
    for _ in range(4):
        await bench.signaller.send_all(job_ids)


async def test_l3_rebuilding_waits_for_whoever_writes_blocks(bench, ledger_url):
    """Else the block that is being written would tell of all events before it, whose blocks are forgotten."""
    await send_four_blocks(bench)
    with psycopg.connect(ledger_url) as writing:
        writing.execute("SELECT signal_ledger.write_blocks(3)")
        writing.commit()
        writing.execute("SELECT signal_ledger.write_blocks(64)")
        rebuilding = asyncio.create_task(bench.store.rebuild())
        await eventually(lambda: waiting_backends(ledger_url) == 1)
        writing.commit()
        await rebuilding
    ledger = Ledger(bench.store, None)
    assert (await ledger.verify()).ok
    assert len([None async for _ in ledger.events(kinds={"delivered"})]) == 1024


async def test_l3_rebuilding_writes_all_blocks_also_while_an_engine_writes_some(bench, ledger_url):
    await send_four_blocks(bench)
    with psycopg.connect(ledger_url) as writing:
        # Holds what keeps all others from writing them, as whoever writes one does.
        writing.execute("SELECT pg_advisory_xact_lock(hashtext('signal_ledger.blocks'), hashtext('signal_ledger'))")
        rewriting = asyncio.create_task(bench.store._call("SELECT ledger.rewrite_blocks($1::integer)", 64))
        await eventually(lambda: waiting_backends(ledger_url) == 1)
        writing.commit()
        assert await rewriting == 4
