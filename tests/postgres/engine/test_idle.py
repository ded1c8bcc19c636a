"""What a node that has nothing to do asks of the database, with few parked jobs and with many."""

import asyncio
import re
from itertools import chain, pairwise

from signal_ledger_adapters.oban import watch
from tests.eventually import eventually
from tests.postgres.engine.conftest import query
from tests.postgres.test_plans import add_sleeping

FEW, MANY = 10, 2000
ROUNDS = 10
ROUND_S = 0.05

# Of the one statement by which Oban stages what is due.
BEGINS_A_ROUND = "state = ANY('{scheduled,retryable}')"
STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]+): (.*(?:\n\t.*)*)")


def rounds_since(log, begin):
    """The statements of each of the stager's rounds that began and ended since then, by the server's log."""
    with log.open(errors="replace") as lines:
        lines.seek(begin)
        statements = STATEMENT.findall(lines.read())
    begins = [place for place, statement in enumerate(statements) if BEGINS_A_ROUND in statement]
    return [statements[one:following] for one, following in pairwise(begins)]


async def some_rounds(log):
    """The statements of some rounds from now on."""
    begin = log.stat().st_size
    # In the first ones the node may still be about to start, or have connections to open.
    await eventually(lambda: len(rounds_since(log, begin)) >= 2 * ROUNDS)
    return list(chain(*rounds_since(log, begin)[ROUNDS : 2 * ROUNDS]))


async def test_w4_an_idle_node_asks_as_little_with_many_snoozed_jobs_as_with_few(
    cluster, ledger_url, start, monkeypatch
):
    monkeypatch.setattr(watch, "LOOK_EVERY_S", ROUND_S)
    monkeypatch.setattr(watch, "RELAY_EVERY_S", ROUND_S)
    [[database]] = query(ledger_url, "SELECT current_database()")
    query(ledger_url, f"ALTER DATABASE {database} SET log_statement = 'all'")
    await add_sleeping(ledger_url, FEW)
    await start(stager={"interval": ROUND_S})
    few, tasks = await some_rounds(cluster.log), len(asyncio.all_tasks())
    await add_sleeping(ledger_url, MANY - FEW)
    many = await some_rounds(cluster.log)
    assert set(many) == set(few)
    # Less than one more in each round: the loops have clocks of their own, so that one of them may be ahead.
    assert len(many) < len(few) + ROUNDS
    # Statements under way are tasks, too.
    assert len(asyncio.all_tasks()) < tasks + FEW
    assert query(ledger_url, "SELECT state::text, count(*) FROM oban_jobs GROUP BY state") == [("scheduled", MANY)]
