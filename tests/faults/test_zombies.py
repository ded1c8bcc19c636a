"""Three older executions of one job on the embedded engine: only the newest one writes (promise W13)."""

import pytest

from signal_ledger import lite
from signal_ledger.embedded.operations import RescueJobs
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.zombies import ORDERS, go_on_in


@pytest.mark.parametrize("window", [0, 60])
async def test_w13_of_four_executions_only_the_newest_writes_in_whatever_order_they_go_on(
    tmp_path, window, record_property
):
    async with lite(f"sqlite:///{tmp_path}/signals.db", {"default": 20}) as engine:

        async def rescue():
            await engine._store.transact(RescueJobs(node=engine._node))
            engine._runner.kick()

        account = Account()
        for order in ORDERS:
            await go_on_in(order, engine, engine.get_job, rescue, window, account)
            await eventually(lambda: not engine._runner._tasks)
        assert (await engine.ledger.verify()).ok
        figures = await account.figures(engine.ledger)
    figures.record(record_property, happened=3 * len(ORDERS))
