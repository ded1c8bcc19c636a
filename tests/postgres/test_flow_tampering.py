"""Steps, edges and waits, altered behind the ledger's back, are found by `verify`, and made anew by `rebuild`."""

import psycopg
import pytest

from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.testing.contract.steps import asleep
from tests.core.given import a_plan


@pytest.fixture
async def steps(bench):
    """A workflow with a step that has ended, one that was released, and one that is held."""
    first = await bench.insert(plan=a_plan("first"))
    await bench.insert(plan=a_plan("second", ["first"]))
    await bench.insert(plan=a_plan("third", ["first", "second"]))
    await bench.finish(first, await bench.fetch(first), JobState.COMPLETED)
    return await bench.store.steps("w")


async def rules(bench):
    report = await Ledger(bench.store, None).verify()
    return [(finding.version, finding.rule) for finding in report.findings]


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ("DELETE FROM signal_ledger.steps WHERE name = 'first'", 1),
        ("DELETE FROM signal_ledger.steps", 3),
        ("DELETE FROM signal_ledger.edges", 1),
        ("UPDATE signal_ledger.steps SET held = 7 WHERE name = 'second'", 1),
        ("UPDATE signal_ledger.steps SET ended_as = 'cancelled' WHERE name = 'second'", 1),
        ("UPDATE signal_ledger.steps SET ended_as = NULL WHERE name = 'first'", 1),
        ("UPDATE signal_ledger.steps SET ended_as = 'gone' WHERE name = 'first'", 1),
        ("UPDATE signal_ledger.steps SET plan = 'nonsense' WHERE name = 'second'", 1),
        ("UPDATE signal_ledger.steps SET plan = replace(plan, 'second', 'other') WHERE name = 'second'", 1),
        ("UPDATE signal_ledger.steps SET job_id = 99 WHERE name = 'second'", 2),
        ("UPDATE signal_ledger.edges SET ended_as = NULL", 2),
    ],
)
async def test_f5_altered_steps_are_found_and_rebuilt(bench, ledger_url, steps, change, count):
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(change)
    assert await rules(bench) == [(None, "L3 projection")] * count
    await bench.store.rebuild()
    assert await rules(bench) == []
    assert await bench.store.steps("w") == steps


@pytest.mark.parametrize(
    "change",
    ["ordinal = 7", "since = since - interval '1 day'", "deadline_at = now()", "deadline_at = NULL", "since = NULL"],
)
async def test_l3_columns_that_show_another_wait_than_the_log_are_found_and_rebuilt(bench, ledger_url, change):
    job_id, _ = await asleep(bench, wait_for=60)
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(f"UPDATE signal_ledger.waits SET {change}")
    assert await rules(bench) == [(None, "L3 projection")]
    await bench.store.rebuild()
    assert await rules(bench) == []
    assert [wait.job_id for wait in await Ledger(bench.store, None).waiting()] == [job_id]
