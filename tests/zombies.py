"""Four executions of one job, three of them older than the newest: what both engines are tried with (promise W13)."""

import asyncio
import itertools

from oban import Record, worker

from signal_ledger import StaleExecution, await_signal
from tests.eventually import eventually
from tests.fault_figures import Account

ORDERS = list(itertools.permutations([1, 2, 3, 4]))
"""In which they go on; the fourth is the newest."""

ENTERED = []
MET = []
GATES = {}


@worker(max_attempts=10)
class Zombie:
    """Stops before its await until it is let go: an older execution has no other way to learn that it is one."""

    async def process(self, job):
        execution = job.attempt
        ENTERED.append(execution)
        await GATES[execution].wait()
        try:
            got = await await_signal(wait_timeout=job.args["window"])
        except StaleExecution:
            MET.append((execution, "stale"))
            raise
        MET.append((execution, got))
        return Record(got)


async def go_on_in(order, engine, get_job, rescue, window, account=None):
    """Let four executions begin, each but the first after a rescue, and go on in an order; check what they did.

    Args:
        order: In which they go on.
        engine: Which runs the job.
        get_job: Returns a job.
        rescue: Takes the job from the worker that has it.
        window: The seconds of its live window.
        account: Notes what became of the signal.
    """
    ENTERED.clear()
    MET.clear()
    GATES.update({execution: asyncio.Event() for execution in order})
    job = await Zombie.enqueue({"window": window})
    for execution in (1, 2, 3):
        await eventually(lambda number=execution: [*range(1, number + 1)] == ENTERED)
        await rescue()
    await eventually(lambda: ENTERED == [1, 2, 3, 4])

    async def awaited():
        return (await engine.ledger.state(job.id)).status in ("live", "snoozed")

    async def completed():
        return (await get_job(job.id)).state == "completed"

    for execution in order:
        GATES[execution].set()
        if execution == 4:
            await eventually(awaited)
        else:
            await eventually(lambda number=execution: (number, "stale") in MET)
    receipt = await (account or Account()).signal(engine, job.id, "for the newest one")
    assert receipt.outcome == ("live" if window else "woken")
    await eventually(completed)
    assert sorted(MET) == [(1, "stale"), (2, "stale"), (3, "stale"), (4, "for the newest one")]
    done = await get_job(job.id)
    assert (done.errors, done.attempt) == ([], 4)
    history = await engine.ledger.history(job.id)
    began = "awaited" if window else "snoozed"
    assert [event.kind for event in history] == [began, "delivered", "consumed", "closed"]
    assert {event.attempt for event in history if event.kind != "delivered"} == {4}
