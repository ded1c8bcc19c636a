"""The example that the library was made for, as users write it with types. Nothing in this folder is ever run."""

from datetime import timedelta

from oban import Cancel, Job, worker

from signal_ledger import SignalTimeout, await_signal, lite


async def charge_card(user_id: int) -> None:
    print(f"user {user_id} is charged")


@worker()
class ApprovalWorker:
    async def process(self, job: Job) -> Cancel | None:
        try:
            payload = await await_signal(wait_for=timedelta(days=1))
        except SignalTimeout:
            return Cancel("no decision")
        if payload["decision"] == "approved":
            await charge_card(job.args["user_id"])
            return None
        return Cancel(f"declined: {payload['decision']}")


async def main() -> None:
    async with lite("sqlite:///signals.db", queues={"default": 10}) as engine:
        # No checker sees the methods that Oban's decorator adds to a class.
        job: Job = await ApprovalWorker.enqueue({"user_id": 7})  # type: ignore[attr-defined]  # ty: ignore[missing-attribute]
        await engine.signal(job, {"decision": "approved"})
