"""Workers whose histories are recorded on real engines and then run again: the same on each engine."""

from oban import Cancel, Record, worker

from signal_ledger import SignalTimeout, Workflow, await_signal, signal
from tests.eventually import eventually

SEEN = []
"""What each execution came to, in order."""


async def gather(job):
    """Several channels, a timeout, an error and a retry: all that a history can hold of awaits."""
    order = await await_signal(wait_timeout=0, channel="order")
    try:
        await await_signal(0.1, 1)
    except SignalTimeout as timeout:
        late = timeout.deadline_at
    votes = [await await_signal(wait_timeout=0, channel="votes")]
    if job.attempt == 1:
        raise ConnectionError("no route")
    votes.append(await await_signal(wait_timeout=0, channel="votes"))
    return job.args["order"], job.attempt, order, late, votes


@worker(max_attempts=3)
class Sale:
    async def process(self, job):
        SEEN.append(await gather(job))
        return Record(len(SEEN[-1]))

    def backoff(self, job):
        return 0


@worker()
class MoreAwaits:
    async def process(self, job):
        await gather(job)
        await await_signal(channel="votes")


@worker()
class FewerAwaits:
    async def process(self, job):
        return await await_signal(channel="order")


@worker()
class AnotherChannel:
    async def process(self, job):
        await await_signal(channel="orders")


@worker()
class Undetermined:
    """Asks a coin that fell differently then."""

    async def process(self, job):
        if job.args.get("coin", "tails") == "heads":
            return Cancel("heads")
        return await await_signal(channel="order")


@worker()
class Noted:
    """What an effect enqueues."""

    async def process(self, job):
        SEEN.append(job.args)


@worker()
class Telling:
    """Waits, and then writes by all the ways that there are."""

    async def process(self, job):
        await await_signal(wait_timeout=0)
        noted = await Noted.enqueue({"by": job.id})
        return await signal([job, noted], "told", channel="told")


@worker()
class Approving:
    """A step that signals another step of its workflow."""

    async def process(self, job):
        await await_signal(wait_timeout=0)
        workflow = await Workflow.load(job.meta["workflow_id"])
        receipt = await workflow.signal("charge", "granted")
        return Cancel(receipt.outcome)


async def sold(it):
    """Let a sale go all its way, and return the job."""
    sale = await Sale.enqueue({"order": 12})
    await signal(sale, "chair", channel="order", source="ada")
    await signal(sale, "aye", channel="votes")
    await eventually(lambda: waits_on(it, sale, "votes"))
    await signal(sale, "no", channel="votes")
    return await it.until(sale, "completed")


async def waits_on(it, job, channel):
    state = await it.engine.ledger.state(job)
    return state.status == "snoozed" and state.channel == channel
