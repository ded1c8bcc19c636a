"""An application of one file, as a user writes it: ``python approval.py`` in an empty folder."""

import asyncio
from datetime import UTC, datetime, timedelta

from oban import Cancel, worker

from signal_ledger import SignalTimeout, await_signal, lite, open_ledger, signal


async def charge_card(user_id):
    print(f"the card of user {user_id} is charged")


@worker()
class ApprovalWorker:
    async def process(self, job):  # noqa: RET503 - as the manual has it
        try:
            payload = await await_signal(wait_for=timedelta(days=1))
        except SignalTimeout:
            return Cancel("no decision")
        if payload["decision"] == "approved":
            await charge_card(job.args["user_id"])
        else:
            return Cancel(f"declined: {payload['decision']}")


class Clock:
    """The present time, and days that pass at will."""

    ahead = timedelta(0)

    def __call__(self):
        return datetime.now(UTC) + self.ahead


async def until(ledger, job, kind):
    async for event in ledger.follow():
        if event.job_id == job.id and event.kind == kind:
            return


async def main():
    clock = Clock()
    async with lite("sqlite:///signals.db", queues={"default": 10}, clock=clock) as engine:
        jobs = approved, declined, forgotten = [await ApprovalWorker.enqueue({"user_id": n}) for n in (1, 2, 3)]

        await until(engine.ledger, approved, "awaited")
        receipt = await signal(approved, {"decision": "approved"})
        print(f"approved: {receipt.outcome}")

        await until(engine.ledger, declined, "snoozed")
        receipt = await engine.signal(declined, {"decision": "too dear"}, source="ada@example.com")
        print(f"declined: {receipt.outcome}")
        await until(engine.ledger, declined, "closed")

        await until(engine.ledger, forgotten, "snoozed")
        clock.ahead = timedelta(days=1)
        await until(engine.ledger, forgotten, "closed")

        for job in jobs:
            ended = await engine.get_job(job.id)
            print(ended.id, ended.state, *[error["error"] for error in ended.errors])

    async with open_ledger("sqlite:///signals.db", read_only=True) as ledger:
        for job in jobs:
            print(job.id, *[event.kind for event in await ledger.history(job)])
        print(await ledger.verify())


if __name__ == "__main__":
    asyncio.run(main())
