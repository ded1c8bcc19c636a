"""Workers as applications have them; what they do is written down in ``SEEN``."""

from datetime import timedelta

from oban import Cancel, Record, Snooze, worker

from signal_ledger import SignalTimeout, await_signal, signal

SEEN = []


@worker()
class Approval:
    """The reference example."""

    async def process(self, job):
        try:
            payload = await await_signal(wait_for=timedelta(days=1), channel="approval")
        except SignalTimeout:
            return Cancel("no decision")
        return Record(payload["decision"])


@worker()
class Poll:
    """Gathers votes, one after the other."""

    async def process(self, job):
        return [await await_signal(wait_timeout=3600) for _ in range(job.args["quorum"])]


@worker(queue="letters")
class Letter:
    async def process(self, job):
        SEEN.append(job.args.get("to"))


@worker()
class Writer:
    """Enqueues jobs in other queues, and signals another job."""

    async def process(self, job):
        for to in job.args["to"]:
            await Letter.enqueue({"to": to})
        if "approve" in job.args:
            await signal(job.args["approve"], {"decision": "approved"}, channel="approval", source="the writer")


@worker()
class Reminder:
    """Comes back by itself."""

    async def process(self, job):
        SEEN.append(job.meta.get("snoozed", 0))
        return Snooze(60) if job.meta.get("snoozed", 0) < 3 else None


@worker(max_attempts=3)
class Failing:
    async def process(self, job):
        SEEN.append(job.attempt)
        raise ValueError(f"this is {job.args.get('secret', 'no secret')}")

    def backoff(self, job):
        return 10 * job.attempt


@worker()
class Restless:
    async def process(self, job):
        return Snooze(0)
