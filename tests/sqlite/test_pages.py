"""Pages of the log and of who waits: each through an index, and none dearer in a long log."""

import sqlite3
from datetime import timedelta
from itertools import product

import pytest
from sqlalchemy import event

from signal_ledger.ledger import Ledger
from signal_ledger_adapters.queries import FEW_WAITS_MAX
from signal_ledger_adapters.sqlite import rebuild
from signal_ledger_adapters.sqlite.rows import event_columns
from signal_ledger_adapters.sqlite.statements import statement
from tests.logs import BEGIN, Mixture, rows_of

LONG = 60_000
STEPS_AT_ONCE = 100
PAGE_STEPS_MAX = 80_000

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
QUESTIONS = [{**choice, **times, "after": after} for choice, times, after in product(CHOICES, TIMES, (None, "p7"))]
QUESTIONS += [{"job_id": 1, "after": after, **choice} for choice, after in product(CHOICES, (None, "p7"))]

# What none of the choices asks for but in its stretch: the log is long on one side of it, or on both.
MIXED = Mixture(seed=1, size=LONG, deliveries=0.5, unnamed=0.5, step=0.0)
NO_DELIVERIES = Mixture(seed=1, size=LONG, deliveries=0.0, unnamed=0.5, step=0.0)
NO_DEFAULT = Mixture(seed=1, size=LONG, deliveries=0.5, unnamed=0.0, step=0.0)


def fill(path, rows):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.executemany(statement("append_event"), [event_columns(row) for row in rows])
    connection.execute("COMMIT")
    connection.close()


class Asked:
    """The statements that a store runs, to be looked at afterwards."""

    def __init__(self, bench):
        self.statements = []
        engine = bench.store._engine.sync_engine
        event.listen(
            engine,
            "before_cursor_execute",
            lambda _connection, _cursor, sql, parameters, _context, _many: self.statements.append((sql, parameters)),
        )

    def plans(self, path):
        """Return each step of each plan."""
        connection = sqlite3.connect(path)
        plans = [
            row[3]
            for sql, parameters in self.statements
            if not sql.startswith("PRAGMA")
            for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        ]
        connection.close()
        return plans

    def steps(self, path):
        """Return how many steps of SQLite's machine they take, in hundreds: a measure of the work."""
        count = 0

        def step():
            nonlocal count
            count += 1

        connection = sqlite3.connect(path)
        connection.set_progress_handler(step, STEPS_AT_ONCE)
        for sql, parameters in self.statements:
            if not sql.startswith("PRAGMA"):
                connection.execute(sql, parameters).fetchall()
        connection.close()
        return count


async def first_page(bench, question):
    async for _ in Ledger(bench.store, None).events(**question):
        break


@pytest.mark.parametrize("statistics", ["none", "of a short log"])
async def test_every_page_of_events_is_found_through_an_index(bench, path, statistics):
    if statistics != "none":
        fill(path, rows_of(Mixture(seed=2, size=300, deliveries=0.5, unnamed=0.5, step=0.1)))
        connection = sqlite3.connect(path)
        connection.execute("ANALYZE")
        connection.close()
    asked = Asked(bench)
    for question in QUESTIONS:
        asked.statements.clear()
        await first_page(bench, question)
        plans = asked.plans(path)
        scans = [step for step in plans if step.startswith("SCAN signal_ledger_events")]
        blocks = [step for step in plans if step.startswith("SCAN signal_ledger_blocks") and "_dip" not in step]
        assert not scans + blocks, (question, plans)


@pytest.mark.parametrize("mixture", [MIXED, NO_DELIVERIES, NO_DEFAULT])
async def test_a_page_of_a_long_log_takes_the_work_of_a_page(bench, path, mixture):
    fill(path, rows_of(mixture))
    asked = Asked(bench)
    for question in QUESTIONS:
        # A stream here is a seventh of the log.
        if "job_id" not in question:
            asked.statements.clear()
            await first_page(bench, question)
            assert asked.steps(path) < PAGE_STEPS_MAX / STEPS_AT_ONCE, question


async def test_the_log_is_long_enough_to_tell_a_page_from_a_scan(path, bench):
    fill(path, rows_of(NO_DELIVERIES))
    asked = Asked(bench)
    asked.statements.append(("SELECT * FROM signal_ledger_events NOT INDEXED WHERE kind = 'delivered'", ()))
    assert asked.steps(path) > 2 * PAGE_STEPS_MAX / STEPS_AT_ONCE


async def test_the_pages_of_a_long_stream_begin_where_they_do(bench, path):
    """The last page takes no more than the first, wherever its cursor comes from."""
    job_id = 1
    rows = [row for row in rows_of(MIXED) if row.job_id == job_id]
    fill(path, rows)
    asked = Asked(bench)
    steps = []
    for after in ("p1", f"p{len(rows) - 600}"):
        asked.statements.clear()
        await first_page(bench, {"job_id": job_id, "after": after})
        steps.append(asked.steps(path))
    assert steps[1] <= 1.2 * steps[0]


async def test_every_page_of_who_waits_is_found_through_an_index(bench, path):
    asked = Asked(bench)
    ledger = Ledger(bench.store, None)
    for channel, after in product((None, "", "c"), (None, "w1_1")):
        asked.statements.clear()
        await ledger.waiting(channel=channel, after=after)
        [plan] = asked.plans(path)
        assert f"INDEX signal_ledger_waits_{'since' if channel is None else 'channel'}" in plan
        asked.statements.clear()
        await ledger.waiting(channel=channel, after=after, deadline_before=bench.clock())
        counting, reading = [plan for plan in asked.plans(path) if "signal_ledger_waits" in plan]
        for plan in (counting, reading):
            assert plan.startswith(
                "SEARCH signal_ledger_waits USING INDEX signal_ledger_waits_deadline (deadline_at>? AND"
            )


def add_waits(path, waits):
    connection = sqlite3.connect(path)
    connection.executemany(
        "INSERT INTO signal_ledger_waits VALUES (?, 1, 1, NULL, 'snoozed', ?, 1, ?, ?, 1, '[]', '[]', 1)", waits
    )
    connection.commit()
    connection.close()


def at(number):
    return f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"


async def test_pages_of_who_waits_are_as_dear_among_many(bench, path):
    add_waits(path, [(number, "" if number % 1000 else "rare", at(number), at(80_000)) for number in range(1, 20_000)])
    add_waits(path, [(number, "rare", at(number), at(number + 1)) for number in range(20_000, 20_003)])
    asked, ledger = Asked(bench), Ledger(bench.store, None)
    late = (await ledger.waiting(limit=10_000))[-1].cursor
    soon = BEGIN + timedelta(seconds=30_000)
    for question, count in (
        ({}, 100),
        ({"channel": "rare"}, 22),
        ({"deadline_before": soon}, 3),
        ({"deadline_before": soon, "channel": "rare"}, 3),
        ({"deadline_before": soon, "channel": ""}, 0),
        # Most of them: they are met soon among all, also those behind many.
        ({"deadline_before": BEGIN + timedelta(days=1)}, 100),
        ({"deadline_before": BEGIN + timedelta(days=1), "channel": "rare"}, 22),
    ):
        for after in (None, late):
            asked.statements.clear()
            found = await ledger.waiting(**question, after=after)
            assert len(found) == count or after is late
            assert asked.steps(path) < 30 * FEW_WAITS_MAX / STEPS_AT_ONCE, question


async def test_few_and_many_waits_that_end_are_listed_alike(bench, path):
    count = FEW_WAITS_MAX + 5
    add_waits(path, [(number, "", at(5000 - number // 2), at(number)) for number in range(count)])
    ledger = Ledger(bench.store, None)
    for ended in (3, FEW_WAITS_MAX, FEW_WAITS_MAX + 1, count):
        read, after = [], None
        while rows := await ledger.waiting(
            deadline_before=BEGIN + timedelta(seconds=ended), limit=ended // 2 + 1, after=after
        ):
            read += [(row.since, row.job_id) for row in rows]
            after = rows[-1].cursor
        assert len(read) == ended
        assert read == sorted(read)


# The blocks


def blocks_of(path):
    connection = sqlite3.connect(path)
    blocks = connection.execute("SELECT * FROM signal_ledger_blocks ORDER BY block").fetchall()
    connection.close()
    return blocks


def change(path, sql):
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.close()


async def findings(bench):
    report = await Ledger(bench.store, None).verify()
    return [str(finding) for finding in report.findings if finding.job_id is None]


async def test_blocks_are_written_with_the_last_event_of_each(bench, path):
    rows = rows_of(Mixture(seed=3, size=1100, deliveries=0.5, unnamed=0.5, step=0.05))
    fill(path, rows[:255])
    assert blocks_of(path) == []
    fill(path, rows[255:256])
    [(block, low, high, delivered, unnamed, peak, crest)] = blocks_of(path)
    times = sorted(event_columns(row)[5] for row in rows[:256])
    assert (block, low, high, peak, crest) == (0, times[0], times[-1], times[-1], times[0])
    assert delivered == sum(row.kind == "delivered" for row in rows[:256])
    assert unnamed == sum(row.kind == "delivered" and row.channel == "" for row in rows[:256])
    fill(path, rows[256:])
    assert [block[0] for block in blocks_of(path)] == [0, 1, 2, 3]
    assert await findings(bench) == []


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("UPDATE signal_ledger_blocks SET high = low WHERE block = 1", "the first up to p512"),
        ("UPDATE signal_ledger_blocks SET delivered = 0 WHERE block = 2", "1 block that say otherwise"),
        ("UPDATE signal_ledger_blocks SET peak = '2020' WHERE block = 0", "the first up to p256"),
        ("DELETE FROM signal_ledger_blocks WHERE block = 1", "the first up to p768"),
        ("INSERT INTO signal_ledger_blocks VALUES (9, '2026', '2026', 1, 1, '2026', '2026')", "the first up to p2560"),
    ],
)
async def test_l3_altered_blocks_are_found_and_rebuilt(bench, path, monkeypatch, sql, found):
    monkeypatch.setattr(rebuild, "BLOCKS_AT_ONCE", 2)
    monkeypatch.setattr("signal_ledger_adapters.sqlite.store.BLOCKS_AT_ONCE", 2)
    fill(path, rows_of(Mixture(seed=3, size=1100, deliveries=0.5, unnamed=0.5, step=0.05)))
    before = blocks_of(path)
    change(path, sql)
    [told] = await findings(bench)
    assert told.startswith("the log: L3 projection: expected blocks that say what the log holds")
    assert found in told
    await bench.store.rebuild()
    assert blocks_of(path) == before
    assert await findings(bench) == []


async def test_blocks_that_are_gone_come_again_with_the_log(bench, path):
    rows = rows_of(Mixture(seed=3, size=1100, deliveries=0.5, unnamed=0.5, step=0.05))
    fill(path, rows[:1000])
    before = blocks_of(path)
    change(path, "DELETE FROM signal_ledger_blocks")
    assert await findings(bench) == []
    fill(path, rows[1000:])
    assert blocks_of(path)[: len(before)] == before


async def test_rebuilding_an_empty_log_leaves_no_block(bench, path):
    change(path, "INSERT INTO signal_ledger_blocks VALUES (0, '2026', '2026', 1, 1, '2026', '2026')")
    assert len(await findings(bench)) == 1
    await bench.store.rebuild()
    assert blocks_of(path) == []
