"""Wrong uses, each of which both type checkers must notice: an `ignore` that is not needed is an error."""

from datetime import timedelta

from oban import Job

from signal_ledger import (
    Ledger,
    LiteEngine,
    Receipt,
    RecordedEvent,
    SignalTimeout,
    StaleExecution,
    WaitState,
    Workflow,
    await_signal,
    codec,
    lite,
    open_ledger,
    rerun,
    signal,
)


async def awaits_of_text() -> None:
    await await_signal("1 day")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await await_signal(wait_timeout="5 s")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await await_signal(wait_timeout=None)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await await_signal(channel=b"votes")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]


async def reruns_of_files_and_instances(worker: object, ledger: Ledger) -> None:
    await rerun(worker, [])  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await rerun(type(worker), b"incident.jsonl")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    rerun(type(worker), [])  # type: ignore[unused-coroutine]  # ty: ignore[unused-awaitable]
    ledger.export(7).save("incident.jsonl")  # type: ignore[attr-defined]  # ty: ignore[missing-attribute]


async def awaits_of_a_channel_by_its_place() -> None:
    await await_signal(60, 5, "votes")  # type: ignore[call-arg]  # ty: ignore[too-many-positional-arguments]


async def what_is_not_awaited(engine: LiteEngine, ledger: Ledger, job: Job) -> None:
    signal(job, "go")  # type: ignore[unused-coroutine]  # ty: ignore[unused-awaitable]
    engine.signal(job, "go")  # type: ignore[unused-coroutine]  # ty: ignore[unused-awaitable]
    engine.cancel_job(job)  # type: ignore[unused-coroutine]  # ty: ignore[unused-awaitable]
    ledger.verify()  # type: ignore[unused-coroutine]  # ty: ignore[unused-awaitable]


async def targets_that_are_none() -> None:
    await signal("7", "go")  # type: ignore[arg-type]  # ty: ignore[no-matching-overload]
    await signal(None, "go")  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await signal(7.0, "go")  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await signal(["7"], "go")  # type: ignore[list-item]  # ty: ignore[no-matching-overload]


async def options_that_are_none(ledger: Ledger, job: Job) -> None:
    await signal(job)  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await signal(job, "go", "votes")  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await signal(job, "go", channel=7)  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await signal(job, "go", key=7)  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await signal(job, "go", connection=job)  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await ledger.signal(job, "go", source=job)  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await ledger.signal(job, "go", timeout=timedelta(seconds=5))  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]


async def one_receipt_taken_for_several(job: Job, jobs: list[Job]) -> None:
    for receipt in await signal(job, "go"):  # type: ignore[attr-defined]  # ty: ignore[not-iterable]
        print(receipt)
    print((await signal(jobs, "go")).outcome)  # type: ignore[attr-defined]  # ty: ignore[missing-attribute]


async def engines_opened_in_another_way() -> None:
    with lite() as engine:  # type: ignore[attr-defined]  # ty: ignore[invalid-context-manager]
        print(engine)
    with open_ledger("sqlite:///signals.db") as ledger:  # type: ignore[attr-defined]  # ty: ignore[invalid-context-manager]
        print(ledger)
    open_ledger()  # type: ignore[call-arg]  # ty: ignore[missing-argument]
    open_ledger("sqlite:///signals.db", True)  # type: ignore[call-arg]  # ty: ignore[too-many-positional-arguments]
    lite(queues=["default"])  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    lite(queues={"default": "10"})  # type: ignore[dict-item]  # ty: ignore[invalid-argument-type]
    lite("sqlite:///signals.db", {"default": 10}, "Oban")  # type: ignore[call-arg]  # ty: ignore[too-many-positional-arguments]


async def jobs_that_are_none(engine: LiteEngine) -> None:
    await engine.enqueue({"user_id": 7})  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await engine.enqueue_many([{"user_id": 7}])  # type: ignore[list-item]  # ty: ignore[invalid-argument-type]
    await engine.get_job("7")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    print((await engine.get_job(7)).state)  # type: ignore[union-attr]  # ty: ignore[missing-union-attribute]


async def questions_asked_in_another_way(ledger: Ledger) -> None:
    await ledger.state(7, at="yesterday")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await ledger.outbox(10)  # type: ignore[call-arg]  # ty: ignore[too-many-positional-arguments]
    await ledger.state(7, "p7")  # type: ignore[arg-type, call-arg]  # ty: ignore[too-many-positional-arguments]
    await ledger.waiting(deadline_before=60)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await ledger.events()  # type: ignore[misc]  # ty: ignore[invalid-await]
    for recorded in ledger.follow():  # type: ignore[attr-defined]  # ty: ignore[not-iterable]
        print(recorded)
    print(ledger.history(7)[0])  # type: ignore[index]  # ty: ignore[not-subscriptable]


def facts_that_are_changed(receipt: Receipt, recorded: RecordedEvent, state: WaitState) -> None:
    receipt.version = 7  # type: ignore[misc]  # ty: ignore[invalid-assignment]
    recorded.version = 7  # type: ignore[misc]  # ty: ignore[invalid-assignment]
    recorded.payload = "gone"  # type: ignore[misc]  # ty: ignore[invalid-assignment]
    state.pending = {}  # type: ignore[misc]  # ty: ignore[invalid-assignment]


def errors_of_another_kind() -> None:
    SignalTimeout("late")  # type: ignore[arg-type, call-arg]  # ty: ignore[missing-argument, too-many-positional-arguments]
    error: Exception = StaleExecution(job_id=7, execution=1)  # type: ignore[assignment]  # ty: ignore[invalid-assignment]
    print(error)


def workflows_made_in_another_way(job: Job, other: Job) -> None:
    Workflow(7)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    Workflow("order 7", True)  # type: ignore[call-arg]  # ty: ignore[too-many-positional-arguments]
    Workflow(ignore_cancelled="yes")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    Workflow().add(job)  # type: ignore[arg-type, call-arg]  # ty: ignore[invalid-argument-type, missing-argument]
    Workflow().add(b"approval", job)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    Workflow().add("charge", job, deps=[other])  # type: ignore[list-item]  # ty: ignore[invalid-argument-type]
    Workflow().add("charge", {"amount": 12})  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    Workflow().add("charge", job, ignore_cancelled="yes")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    Workflow().jobs["approval"] = job  # type: ignore[index]  # ty: ignore[invalid-assignment]


async def workflows_enqueued_in_another_way(workflow: Workflow, engine: LiteEngine) -> None:
    await engine.enqueue(workflow)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await engine.enqueue_many(workflow, workflow)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await engine.enqueue_many([workflow])  # type: ignore[list-item]  # ty: ignore[invalid-argument-type]


async def workflows_asked_in_another_way(workflow: Workflow, job: Job) -> None:
    workflow.status()  # type: ignore[unused-coroutine]  # ty: ignore[unused-awaitable]
    Workflow.load(workflow.id)  # type: ignore[unused-coroutine]  # ty: ignore[unused-awaitable]
    await Workflow.load(7)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    await workflow.signal(job, "go")  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await workflow.signal("approval")  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    await workflow.signal([7], "go")  # type: ignore[list-item]  # ty: ignore[no-matching-overload]
    await workflow.signal("approval", "go", "votes")  # type: ignore[call-overload]  # ty: ignore[no-matching-overload]
    for receipt in await workflow.signal("approval", "go"):  # type: ignore[attr-defined]  # ty: ignore[not-iterable]
        print(receipt)
    print((await workflow.status()).counts["completed"] + "1")  # type: ignore[operator]  # ty: ignore[unsupported-operator]
    (await workflow.status()).total = 7  # type: ignore[misc]  # ty: ignore[invalid-assignment]


def payloads_that_are_no_bytes() -> None:
    codec.decode("approved")  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    text: str = codec.encode("approved")  # type: ignore[assignment]  # ty: ignore[invalid-assignment]
    print(text)
