"""Three older executions of one job on Oban: only the newest one writes (promise W13)."""

import asyncio

import pytest

from tests.eventually import eventually
from tests.fault_figures import Account
from tests.faults.strace import sample
from tests.zombies import ORDERS, go_on_in


@pytest.mark.parametrize("window", [0, 60])
async def test_w13_of_four_executions_only_the_newest_writes_in_whatever_order_they_go_on(
    start, window, record_property
):
    it = await start({"default": 20})
    orders = sample(ORDERS)
    account = Account()
    for order in orders:
        await go_on_in(order, it.engine, it.oban.get_job, lambda: it.oban._query.rescue_jobs(0), window, account)
        await eventually(lambda: not _processes())
    figures = await account.figures(it.ledger)
    figures.record(record_property, happened=3 * len(orders))


def _processes():
    return [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "Producer._execute"]
