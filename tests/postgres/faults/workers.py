"""Workers that faults strike."""

from oban import Record, worker
from oban._recorded import decode_recorded

from signal_ledger import await_signal
from tests.eventually import eventually

STOP = "stop"


@worker(max_attempts=1)
class Collector:
    """Gathers what it is sent, until it is told to stop. A single error would end it."""

    async def process(self, job):
        numbers = []
        while (payload := await await_signal(wait_timeout=job.args["window"])) != STOP:
            numbers.append(payload["number"])
        return Record(numbers)


async def collectors(node, count=8):
    """Start some: half of them wait live for a while, half fall asleep at once."""
    jobs = await node.engine.enqueue_many(Collector.new({"window": 0.2 * (number % 2)}) for number in range(count))

    async def all_wait():
        return len(await node.ledger.waiting()) == count

    await eventually(all_wait)
    return jobs


async def have_consumed_all(node, jobs):
    """Stop them; each must return what it was sent, in the order of the log, and have consumed it once."""
    await node.engine.signal(jobs, STOP)
    for job in jobs:
        ended = await node.until(job, "completed")
        history = await node.ledger.history(job)
        # On other channels there may be a signal of which its sender was told that nobody knows.
        delivered = [event for event in history if event.kind == "delivered" and event.channel is None]
        consumed = [event.signal_id for event in history if event.kind == "consumed"]
        assert consumed == [event.signal_id for event in delivered]
        assert decode_recorded(ended.meta["return"]) == [event.payload["number"] for event in delivered[:-1]]
