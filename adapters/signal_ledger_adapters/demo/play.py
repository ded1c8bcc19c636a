"""The play: five purchases, a workflow, a killed worker, and what the log says of it in the end."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from oban import Job

from signal_ledger import Ledger, RecordedEvent, Report, Workflow
from signal_ledger.events import Kind
from signal_ledger_adapters.demo.processes import PATIENCE_S, Helper, start
from signal_ledger_adapters.demo.stages import DemoEngine, Stage
from signal_ledger_adapters.demo.workers import VOTES, CommitteeApproval, Order, PurchaseApproval

DECISION_WITHIN_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A purchase after the play.

    Args:
        title: What was to be bought.
        job: The job as it ended.
        history: Its events.
        expected_state: How it should have ended.
        expected_kinds: Which events it should have, those of live waits left out.
    """

    title: str
    job: Job
    history: list[RecordedEvent]
    expected_state: str
    expected_kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the play came to."""

    purchases: list[Ended]
    report: Report


async def play(stage: Stage, say: Callable[[str], None]) -> Outcome:
    """Play it on an empty database.

    Args:
        stage: The database and the engine.
        say: Is told of each step.

    Raises:
        TimeoutError: Something that should have happened did not.
    """
    supplier = stage.folder / "supplier-is-open"
    async with (
        stage.director() as engine,
        start("signaller_process", stage.url) as signaller,
        AsyncExitStack() as workers,
    ):
        desk, espresso, tickets, laptop, office = jobs = await engine.enqueue_many(
            _purchase("standing desk", supplier),
            _purchase("espresso machine", supplier),
            _purchase("concert tickets", supplier, wait_for=DECISION_WITHIN_S),
            _purchase("laptop", supplier),
            CommitteeApproval.new(  # type: ignore[attr-defined]  # @worker adds it
                {"title": "new office", "supplier": str(supplier)}
            ),
        )
        say(f"enqueued {len(jobs)} purchases")
        fair = _trade_fair(supplier)
        await engine.enqueue_many(fair)
        say("enqueued a workflow: a stand and a journey wait for an approval, and a party for both")
        await _signal(signaller, say, laptop, {"decision": "approved"}, source="ada")
        # All but the laptop, and of the workflow the first step.
        await _work_and_die(stage, engine, workers, len(jobs) - 1 + 1, laptop, say)
        if stage.has_spare:
            worker = await workers.enter_async_context(start("worker_process", stage.url))
            say(f"worker process {worker.pid} started in its place")
        supplier.touch()
        say("the supplier has opened")
        await _signal(signaller, say, desk, {"decision": "approved"}, source="grace")
        await _signal(signaller, say, espresso, {"decision": "declined", "reason": "have tea"}, source="grace")
        approved = {"decision": "approved"}
        receipt = await signaller.ask(workflow=fair.id, name="approval", payload=approved, source="grace")
        say(f"grace signalled the approval of workflow {fair.name} by its name: {receipt['outcome']}")
        await _vote(signaller, say, office, 1, "yes")
        # The second voter finds the job in its live window.
        await _until(engine.ledger, lambda seen: any(one.ordinal == 2 for one in seen), "a second await")
        await _vote(signaller, say, office, 2, "yes")
        await _vote(signaller, say, office, 3, "no")
        repeated = await signaller.ask(target=office.id, payload="yes", channel="votes", key="vote-1")
        say(f"voter 1 sent the same vote again: {repeated['outcome']}")
        say(f"waiting for the deadline of the {tickets.args['title']}, and until all have ended")
        count = len(jobs) + len(fair)
        await _until(engine.ledger, lambda seen: _count(seen, Kind.CLOSED) == count, f"{count} jobs that ended")
        say(f"workflow {fair.name}: {(await fair.status()).state}")
        await workers.aclose()
        say("the worker stopped gracefully")
        supplier.unlink()
        return Outcome(
            purchases=[
                await _ended(engine, desk, "completed", ("snoozed", "delivered", "consumed", "closed")),
                await _ended(engine, espresso, "cancelled", ("snoozed", "delivered", "consumed", "closed")),
                await _ended(engine, tickets, "cancelled", ("snoozed", "timed_out", "closed")),
                await _ended(engine, laptop, "completed", ("delivered", "consumed", "closed")),
                await _ended(engine, office, "completed", ("delivered", "consumed") * VOTES + ("closed",)),
                await _ended(
                    engine,
                    fair.jobs["approval"],
                    "completed",
                    ("planned", "snoozed", "delivered", "consumed", "closed"),
                ),
                *[
                    await _ended(engine, fair.jobs[name], "completed", ("planned", "released", "closed"))
                    for name in ("stand", "journey", "party")
                ],
            ],
            report=await engine.ledger.verify(),
        )


def findings(outcome: Outcome) -> list[str]:
    """Say what is off; nothing, if all is as it should be."""
    found = [str(finding) for finding in outcome.report.findings]
    for purchase in outcome.purchases:
        who = f"job {purchase.job.id} ({purchase.title})"
        if purchase.job.state != purchase.expected_state:
            found.append(f"{who}: expected to end {purchase.expected_state}, is {purchase.job.state}")
        kinds = sorted(_without_live(purchase))
        if kinds != sorted(purchase.expected_kinds):
            found.append(f"{who}: expected the events {', '.join(purchase.expected_kinds)}, got {', '.join(kinds)}")
    return found


def _without_live(purchase: Ended) -> list[str]:
    """The kinds of a history that do not depend on how quick the machine is.

    Whether a vote finds the committee's job live or asleep does.
    """
    varying = {"awaited", "snoozed"} if "snoozed" not in purchase.expected_kinds else {"awaited"}
    return [recorded.kind.value for recorded in purchase.history if recorded.kind.value not in varying]


def _purchase(title: str, supplier: Path, *, wait_for: float | None = None) -> Job:
    args = {"title": title, "wait_for": wait_for, "supplier": str(supplier)}
    job: Job = PurchaseApproval.new(args)  # type: ignore[attr-defined]  # @worker adds it
    return job


def _trade_fair(supplier: Path) -> Workflow:
    def step(title: str) -> Job:
        job: Job = Order.new({"title": title, "supplier": str(supplier)})  # type: ignore[attr-defined]
        return job

    workflow = Workflow("trade fair")
    workflow.add("approval", _purchase("trade fair", supplier))
    workflow.add("stand", step("stand at the fair"), deps="approval")
    workflow.add("journey", step("journey to the fair"), deps="approval")
    return workflow.add("party", step("party after the fair"), deps=["stand", "journey"])


async def _work_and_die(
    stage: Stage,
    engine: DemoEngine,
    workers: AsyncExitStack,
    asleep: int,
    laptop: Job,
    say: Callable[[str], None],
) -> None:
    """Let workers begin, and kill the one that runs a job while the others' sleep."""
    helpers = [await workers.enter_async_context(start("worker_process", stage.url)) for _ in range(stage.workers)]
    for helper in helpers:
        say(f"worker process {helper.pid} started")
    await _until(engine.ledger, lambda seen: _count(seen, Kind.SNOOZED) == asleep, f"{asleep} snoozed jobs")
    await _until(
        engine.ledger, lambda seen: _count(seen, Kind.CONSUMED) == 1, "the consumption of the signal that came first"
    )
    say(f"{asleep} jobs sleep; job {laptop.id} has its signal and is ordering at the supplier, who is closed")
    assert laptop.id is not None  # noqa: S101
    ordering = await engine.get_job(laptop.id)
    assert ordering is not None  # noqa: S101
    [busy] = [helper for helper in helpers if ordering.attempted_by[0].endswith(f".{helper.pid}")]
    status = await busy.kill()
    say(f"worker process {busy.pid} was killed with SIGKILL (status {status}); {stage.rescue}")


async def _vote(signaller: Helper, say: Callable[[str], None], job: Job, number: int, vote: str) -> None:
    await _signal(signaller, say, job, vote, source=f"voter {number}", channel="votes", key=f"vote-{number}")


async def _signal(
    signaller: Helper, say: Callable[[str], None], job: Job, payload: object, *, source: str, **options: str
) -> None:
    receipt = await signaller.ask(target=job.id, payload=payload, source=source, **options)
    say(f"{source} signalled job {job.id} from process {signaller.pid}: {receipt['outcome']}")


async def _until(ledger: Ledger, is_reached: Callable[[list[RecordedEvent]], bool], what: str) -> None:
    """Follow the log from its beginning until it shows something."""
    seen: list[RecordedEvent] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            async for recorded in ledger.follow():
                seen.append(recorded)
                if is_reached(seen):
                    return
    raise TimeoutError(f"expected {what} within {PATIENCE_S:g} s; the log holds {len(seen)} events")


def _count(seen: list[RecordedEvent], kind: Kind) -> int:
    return sum(recorded.kind is kind for recorded in seen)


async def _ended(engine: DemoEngine, job: Job, state: str, kinds: tuple[str, ...]) -> Ended:
    assert job.id is not None  # noqa: S101
    after = await engine.get_job(job.id)
    assert after is not None  # noqa: S101 - finished jobs are kept for a day
    history = await engine.ledger.history(job.id)
    return Ended(title=job.args["title"], job=after, history=history, expected_state=state, expected_kinds=kinds)
