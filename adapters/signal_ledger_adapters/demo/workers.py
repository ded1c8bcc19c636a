"""The workers of the demo: what a user of the library would write."""

import asyncio
from pathlib import Path

from oban import Cancel, Job, Record, worker

from signal_ledger import SignalTimeout, await_signal

VOTES = 3


@worker(queue="purchases")
class PurchaseApproval:
    """Asks for one decision, then orders."""

    async def process(self, job: Job) -> Record | Cancel:
        """Wait for a decision, as long as ``wait_for`` says, and act on it."""
        try:
            answer = await await_signal(wait_for=job.args["wait_for"], wait_timeout=0.3)
        except SignalTimeout:
            return Cancel("nobody decided in time")
        if answer["decision"] != "approved":
            return Cancel(f"declined: {answer['reason']}")
        return Record({"order": await order(job)})


@worker(queue="purchases")
class CommitteeApproval:
    """Gathers votes in a loop of awaits: each vote is a step that is done once, whatever happens in between."""

    async def process(self, job: Job) -> Record | Cancel:
        """Wait for the votes and act on the majority."""
        votes = [await await_signal(wait_timeout=0.3, channel="votes") for _ in range(VOTES)]
        if votes.count("yes") * 2 <= VOTES:
            return Cancel("voted down")
        return Record({"order": await order(job), "votes": votes})


@worker(queue="purchases")
class Order:
    """Orders what others have decided on."""

    async def process(self, job: Job) -> Record:
        """Order it."""
        return Record({"order": await order(job)})


async def order(job: Job) -> str:
    """Order from the supplier, who is closed until a file appears beside the database."""
    while not Path(job.args["supplier"]).exists():  # noqa: ASYNC110 - a supplier that has to be asked again and again
        await asyncio.sleep(0.02)
    return f"PO-{job.id}"
