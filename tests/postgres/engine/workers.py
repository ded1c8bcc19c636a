"""Workers that several test files use."""

import datetime as dt

from oban import Cancel, Record, worker

from signal_ledger import SignalTimeout, await_signal

SEEN = []
"""What workers saw; emptied before each test."""


@worker()
class Approval:
    """The example of the design's first section, with its times from the job's args."""

    async def process(self, job):
        try:
            payload = await await_signal(
                wait_for=job.args.get("wait_for", dt.timedelta(days=1)), wait_timeout=job.args.get("window", 0)
            )
        except SignalTimeout:
            return Cancel("no decision")
        SEEN.append(payload)
        if payload["decision"] == "approved":
            return Record(payload)
        return Cancel(f"declined: {payload['decision']}")


@worker()
class Votes:
    async def process(self, job):
        votes = [await await_signal(wait_timeout=job.args.get("window", 0), channel="votes") for _ in range(3)]
        SEEN.append(votes)


@worker()
class Quick:
    async def process(self, job):
        SEEN.append("quick")


APPROVED = {"decision": "approved"}
