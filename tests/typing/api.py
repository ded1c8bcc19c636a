"""What the public functions and methods give back, as type checkers see it."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO, assert_type

from hypothesis.strategies import SearchStrategy
from oban import Job, Oban
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from signal_ledger import (
    DeliveryUnknown,
    Finding,
    History,
    KeyConflict,
    Ledger,
    Limits,
    LiteEngine,
    Outcome,
    PayloadError,
    Progress,
    Receipt,
    RecordedEvent,
    RecordedJob,
    ReplayStep,
    Report,
    RerunDiverged,
    RerunReport,
    SchemaError,
    SchemaVersion,
    SignalTimeout,
    StaleExecution,
    StoredSignal,
    WaitingJob,
    WaitState,
    Workflow,
    await_signal,
    codec,
    lite,
    migrate,
    open_ledger,
    rerun,
    schema_version,
    signal,
    telemetry,
    testing,
)
from signal_ledger.testing import strategies
from signal_ledger_adapters.doctor import Check, Status, examine


async def awaits() -> None:
    assert_type(await await_signal(), Any)
    assert_type(await await_signal(60), Any)
    assert_type(await await_signal(timedelta(days=1), 0.5), Any)
    assert_type(await await_signal(wait_for=None, wait_timeout=timedelta(0), channel="votes"), Any)


async def one_target_gives_one_receipt(job: Job, job_id: int, connection: AsyncConnection) -> None:
    assert_type(await signal(job_id, {"decision": "approved"}), Receipt)
    assert_type(await signal(job, None, channel="votes", key="vote-7", source="ada", timeout=5), Receipt)
    assert_type(await signal(job, "go", conn=connection), Receipt)


async def several_give_a_list(job: Job, jobs: list[Job], job_ids: set[int], lazily: Iterator[Job]) -> None:
    assert_type(await signal(jobs, "go"), list[Receipt])
    assert_type(await signal(job_ids, "go", channel="votes", key="vote-7", source="ada", timeout=5.5), list[Receipt])
    assert_type(await signal(lazily, "go"), list[Receipt])
    assert_type(await signal((job, 7), "go"), list[Receipt])
    assert_type(await signal([], "go"), list[Receipt])


def receipts(receipt: Receipt) -> None:
    job_id: int = receipt.job_id
    signal_id: str | None = receipt.signal_id
    assert_type(receipt.outcome, Outcome)
    assert_type(receipt.version, int | None)
    assert_type(receipt.reason, str | None)
    assert_type(receipt.outcome == "woken", bool)
    print(job_id, signal_id)


async def engines(engine: LiteEngine, job: Job, jobs: Iterator[Job], connection: object) -> None:
    assert_type(await engine.enqueue(job), Job)
    assert_type(await engine.enqueue(job, conn=connection), Job)
    assert_type(await engine.enqueue_many(jobs), list[Job])
    assert_type(await engine.enqueue_many(job, job, conn=connection), list[Job])
    assert_type(await engine.get_job(7), Job | None)
    assert_type(await engine.cancel_many_jobs([job, 7]), int)
    assert_type(await engine.retry_many_jobs([job, 7]), int)
    assert_type(await engine.delete_many_jobs([job, 7]), int)
    await engine.cancel_job(job)
    await engine.retry_job(7)
    await engine.delete_job(job)
    assert_type(await engine.signal(job, "go"), Receipt)
    assert_type(await engine.signal([job, 7], "go"), list[Receipt])
    assert_type(await engine.signal([job, 7], "go", conn=connection), list[Receipt])
    assert_type(engine.ledger, Ledger)
    assert_type(engine.name, str)


async def lite_is_used_with_async_with(clock: Callable[[], datetime]) -> None:
    async with lite() as engine:
        assert_type(engine, LiteEngine)
    async with lite(
        "sqlite:////srv/signals.db",
        {"default": 10, "slow": {"limit": 2, "paused": True}},
        name="Approvals",
        shutdown_grace_period=None,
        live_share=1,
        prune_after=None,
        limits=Limits(size_bytes_max=1_000),
        clock=clock,
    ) as configured:
        assert_type(configured, LiteEngine)


async def open_ledger_is_used_with_async_with() -> None:
    async with open_ledger("sqlite:///signals.db") as ledger:
        assert_type(ledger, Ledger)
    async with open_ledger("sqlite:///signals.db", read_only=True, limits=Limits()) as read_only:
        assert_type(read_only, Ledger)


async def ledgers_signal(ledger: Ledger, job: Job, session: AsyncSession) -> None:
    assert_type(await ledger.signal(7, "go"), Receipt)
    assert_type(await ledger.signal([job, 7], "go", key="go-7"), list[Receipt])
    assert_type(await ledger.signal(7, "go", conn=session), Receipt)


async def ledgers_are_asked(ledger: Ledger, job: Job) -> None:
    assert_type(await ledger.history(job), list[RecordedEvent])
    assert_type(await ledger.history(7), list[RecordedEvent])
    assert_type(await ledger.state(7), WaitState)
    assert_type(await ledger.state(job, at=datetime.now(UTC)), WaitState)
    assert_type(await ledger.state(job, cursor="p7"), WaitState)
    assert_type(await ledger.waiting(), list[WaitingJob])
    assert_type(await ledger.waiting(channel="", deadline_before=datetime.now(UTC), limit=7), list[WaitingJob])
    assert_type(await ledger.outbox(), list[StoredSignal])
    assert_type(await ledger.outbox(limit=7, after="o7"), list[StoredSignal])
    assert_type(await ledger.verify(), Report)
    assert_type(await ledger.verify(progress=tell, findings_max=100), Report)
    assert_type(await ledger.rebuild(), int)


async def histories_are_exported(ledger: Ledger, job: Job, path: Path) -> None:
    history = await ledger.export(job)
    assert_type(history, History)
    assert_type(await ledger.export(7), History)
    assert_type(ledger.replay(job), AsyncGenerator[ReplayStep, None])
    async for event, state in ledger.replay(7):
        assert_type(event, RecordedEvent)
        assert_type(state, WaitState)
    history.save(path)
    history.save("incident.jsonl")
    print(*history.to_lines(), sep="\n")


def histories_are_loaded_and_replayed(path: Path, lines: TextIO) -> None:
    history = History.load(path)
    assert_type(history, History)
    assert_type(History.load("incident.jsonl"), History)
    assert_type(History.from_lines(lines), History)
    assert_type(History.of(history.events), History)
    assert_type(history.until(7), History)
    assert_type([event.version for event in history], list[int])
    assert_type(history[-1], RecordedEvent)
    assert_type(history[:7], tuple[RecordedEvent, ...])
    for step in history.replay():
        assert_type(step.event, RecordedEvent)
        assert_type(step.state, WaitState)
    job: RecordedJob | None = history.job
    job_id: int = history.job_id
    if job is not None:
        args: Mapping[str, object] = job.args
        print(args, job_id)


async def workers_are_run_again(worker: type, history: History, ledger: Ledger) -> None:
    report = await rerun(worker, history)
    assert_type(report, RerunReport)
    assert_type(await rerun(worker, await ledger.history(7), args={"order": 7}), RerunReport)
    await rerun(worker, history.until(7), run=1, args={}, meta={"mine": True}, attempt=2)
    assert_type(report.ended == "returned", bool)
    assert_type(report.ok, bool)
    assert_type(report.result, object)
    assert_type(report.error, BaseException | None)
    assert_type(report.divergence, str | None)
    assert_type(str(report), str)
    for each in report.awaits + report.unasked:
        assert_type(each.channel, str | None)
        assert_type(each.got == "signal", bool)
        assert_type(each.version, int | None)
    if report.stopped_at is not None:
        assert_type(report.stopped_at.since, datetime | None)
    for unsent in report.signals:
        assert_type(unsent.payload, Any)
    for unwritten in report.jobs:
        assert_type(unwritten.queue, str)
    try:
        report.raise_for_divergence()
    except RerunDiverged as diverged:
        assert_type(diverged.report, RerunReport)


async def the_log_is_iterated(ledger: Ledger, job: Job) -> None:
    assert_type(ledger.events(), AsyncGenerator[RecordedEvent, None])
    assert_type(ledger.follow(), AsyncGenerator[RecordedEvent, None])
    async for recorded in ledger.events(
        after="p7",
        job_id=job,
        kinds={"delivered", "timed_out"},
        since=datetime.now(UTC),
        until=datetime.now(UTC),
        source="ada",
        channel="",
    ):
        assert_type(recorded, RecordedEvent)
    async for recorded in ledger.follow(after="end"):
        assert_type(recorded, RecordedEvent)
    assert_type([recorded.version async for recorded in ledger.events()], list[int])


def recorded_events(recorded: RecordedEvent) -> None:
    assert_type(recorded.position, int)
    assert_type(recorded.version, int)
    assert_type(recorded.cursor, str)
    assert_type(recorded.recorded_at, datetime)
    assert_type(recorded.run, int)
    assert_type(recorded.channel, str | None)
    assert_type(recorded.ordinal, int | None)
    assert_type(recorded.attempt, int | None)
    assert_type(recorded.payload, Any)
    assert_type(recorded.key, str | None)
    assert_type(recorded.source, str | None)
    assert_type(recorded.deadline_at, datetime | None)
    assert_type(recorded.kind == "delivered", bool)
    # Names that are numbers and texts with a type of their own, which users need not know.
    job_id: int = recorded.job_id
    texts: list[str | None] = [recorded.kind, recorded.signal_id, recorded.cause, recorded.outcome]
    execution: int | None = recorded.execution
    print(job_id, texts, execution)


def wait_states(state: WaitState, row: WaitingJob) -> None:
    status: str = state.status
    assert_type(state.run, int)
    assert_type(state.version, int)
    assert_type(state.channel, str | None)
    assert_type(state.ordinal, int | None)
    assert_type(state.deadline_at, datetime | None)
    assert_type(state.pending, dict[str | None, int])
    assert_type(state.provisional, bool)
    assert_type(row.since, datetime)
    assert_type(row.deadline_at, datetime | None)
    assert_type(row.cursor, str)
    print(status)


def stored_signals(stored: StoredSignal) -> None:
    job_id: int = stored.job_id
    signal_id: str = stored.signal_id
    assert_type(stored.stored_at, datetime)
    assert_type(stored.channel, str | None)
    assert_type(stored.refusal, str | None)
    assert_type(stored.cursor, str)
    print(job_id, signal_id)


def tell(progress: Progress) -> None:
    assert_type(progress.events / max(1, progress.total), float)
    assert_type(progress.streams + progress.found, int)


def reports(report: Report) -> None:
    assert_type(report.ok, bool)
    assert_type(report.found, int)
    assert_type(report.findings, tuple[Finding, ...])
    for finding in report.findings:
        assert_type(finding.version, int | None)
        assert_type(str(finding), str)


async def errors_carry_what_they_know(job: Job) -> None:
    try:
        await signal(job, "go")
    except KeyConflict as conflict:
        assert_type(conflict.key, str)
    except PayloadError as unfit:
        assert_type(unfit.path, str | None)
    except DeliveryUnknown as unknown:
        await signal(job, "go", key=unknown.signal_id)
    except SignalTimeout as late:
        assert_type(late.deadline_at, datetime | None)
    except SchemaError as refused:
        assert_type(str(refused), str)
    except StaleExecution as stale:
        assert_type(stale.execution, int)


def workflows_are_made(job: Job, other: Job, engine: LiteEngine, ledger: Ledger) -> None:
    workflow = Workflow()
    assert_type(workflow, Workflow)
    assert_type(workflow.add("approval", job), Workflow)
    Workflow("order 7", ignore_cancelled=True, ignore_discarded=True, ignore_deleted=True, via=engine).add(
        "approval", job
    ).add("charge", other, deps=["approval"], ignore_cancelled=False).add("tell", other, "charge")
    assert_type(Workflow(via=ledger).id, str)
    assert_type(workflow.name, str | None)
    assert_type(list(workflow), list[Job])
    assert_type(len(workflow), int)
    assert_type(workflow.graph(), str)
    jobs: Mapping[str, Job] = workflow.jobs
    job_ids: Mapping[str, int] = workflow.job_ids
    print(jobs, job_ids)


async def workflows_are_enqueued_and_signalled(engine: LiteEngine, oban: Oban, connection: AsyncConnection) -> None:
    workflow = Workflow()
    assert_type(await engine.enqueue_many(workflow), list[Job])
    await engine.enqueue_many(workflow, conn=connection)
    await oban.enqueue_many(workflow)
    assert_type(await workflow.signal("approval", {"decision": "approved"}), Receipt)
    assert_type(await workflow.signal("approval", "go", channel="votes", key="k", source="ada", timeout=5), Receipt)
    assert_type(await workflow.signal(["approval", "charge"], "go", conn=connection), list[Receipt])
    assert_type(await workflow.signal((name for name in workflow.jobs), "go"), list[Receipt])


async def workflows_are_loaded_and_asked(engine: LiteEngine, ledger: Ledger) -> None:
    workflow = await Workflow.load("5c4272e9-f6b4-4aa5-a7f9-1a3b4b1c2d3e")
    assert_type(workflow, Workflow)
    assert_type(await Workflow.load(workflow.id, via=engine), Workflow)
    assert_type(await Workflow.load(workflow.id, via=ledger), Workflow)
    status = await workflow.status()
    assert_type(status.state == "completed", bool)
    assert_type(status.total, int)
    assert_type(status.duration, timedelta)
    assert_type(status.ended_at, datetime | None)
    counts: Mapping[str, int] = status.counts
    held: Mapping[str, tuple[str, ...]] = status.held
    for waiting in await workflow.waiting():
        assert_type(waiting.name, str)
        assert_type(waiting.wait, WaitingJob)
    assert_type(await workflow.cancel(), int)
    assert_type(await workflow.retry(), int)
    print(counts, held)


async def workers_are_tested(worker: type, job: Job) -> None:
    run = await testing.run(worker, {"user_id": 7}, signals=["go", testing.Signal("late", channel="c", after=5)])
    assert_type(run, testing.Run)
    assert_type(await testing.run(job, until=timedelta(days=1)), testing.Run)
    assert_type(run.state, str)
    assert_type(run.result, object)
    assert_type(run.reason, str | None)
    assert_type(run.error, BaseException | None)
    assert_type(run.waiting, WaitingJob | None)
    assert_type(run.job, Job)
    assert_type(run.history, tuple[RecordedEvent, ...])
    assert_type(run.receipts, tuple[Receipt, ...])
    assert_type(run.took, timedelta)
    assert_type(run.executions, int)


async def engines_for_tests_are_told_what_to_do(worker: type, job: Job) -> None:
    clock = testing.ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    configured = testing.engine(
        "sqlite:///app.db", name="Approvals", clock=clock, limits=Limits(size_bytes_max=1_000), executions_max=100
    )
    assert_type(configured, testing.ManualEngine)
    async with testing.engine() as engine:
        assert_type(engine, testing.ManualEngine)
        assert_type(engine.clock, testing.ManualClock)
        assert_type(await engine.enqueue(job), Job)
        assert_type(await engine.drain(), int)
        assert_type(await engine.drain(raising=False), int)
        assert_type(await engine.advance(timedelta(days=1)), int)
        assert_type(await engine.advance(1.5, raising=False), int)
        assert_type(await engine.advance_to_next(), datetime | None)
        assert_type(await engine.run(worker, signals=["go"]), testing.Run)
        assert_type(engine.error_of(job), BaseException | None)
        assert_type(engine.is_open, bool)


async def waits_and_receipts_are_asserted(job: Job, engine: LiteEngine, ledger: Ledger, receipt: Receipt) -> None:
    assert_type(await testing.assert_waiting(job, channel="c", deadline_in=5, via=ledger), WaitingJob)
    await testing.assert_not_waiting(7, via=engine)
    await testing.assert_state(job, "completed")
    assert_type(await testing.assert_signalled(job, payload=None, channel="", source="ada", key="k"), RecordedEvent)
    assert_type(await testing.assert_timed_out(job, channel="c"), RecordedEvent)
    testing.assert_receipt(receipt, "woken")
    testing.assert_receipt([receipt], "ignored", reason="missing")


def strategies_are_typed() -> None:
    assert_type(strategies.payloads(), SearchStrategy[object])
    events_of_any_kind: SearchStrategy[RecordedEvent | object] = strategies.events()
    histories = strategies.histories(job_id=7, payloads=strategies.payloads())
    assert_type(histories.example().events, list[RecordedEvent])
    assert_type(histories.example().state, WaitState)
    print(events_of_any_kind)


def events_are_listened_to(count: Callable[[str, dict[str, Any]], None]) -> None:
    telemetry.attach("mine", telemetry.EVENTS, count)
    telemetry.attach("other", ["signal_ledger.relayed"], lambda name, told: print(name, told["count"]))
    telemetry.execute("signal_ledger.relayed", {"count": 3})
    with telemetry.span("signal_ledger.execution", {"job_id": 7}) as span:
        span.add({"ended": "returned"})
    telemetry.detach("mine")
    telemetry.logger.attach(level=10, events=["signal_ledger.consumed"])
    telemetry.logger.detach()
    telemetry.opentelemetry.attach()
    telemetry.opentelemetry.detach()


def payloads_are_encoded() -> None:
    assert_type(codec.encode({"decision": "approved"}), bytes)
    assert_type(codec.decode(b"\x83a\x07"), object)


async def a_schema_has_a_version() -> None:
    assert_type(await migrate("sqlite:///signals.db"), int)
    found = await schema_version("postgresql://localhost/app", schema="audit")
    assert_type(found, SchemaVersion)
    assert_type(found.installed, int | None)
    assert_type(found.newest, int)
    assert_type(found.is_current, bool)


async def the_doctor_says_what_it_finds() -> None:
    async for check in examine("sqlite:///signals.db", timeout_s=1):
        assert_type(check, Check)
        assert_type(check.status, Status)
        assert_type(check.found, str)
        assert_type(check.advice, str | None)
