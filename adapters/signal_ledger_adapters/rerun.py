"""Running a worker's `process` again on a recorded history, offline."""

import asyncio
from bdb import BdbQuit
from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, cast

from oban import Cancel, Job, Snooze
from oban.job import JobState

from signal_ledger.arguments import type_name
from signal_ledger.embedded.job_row import WAIT_UNTIL
from signal_ledger.execution import Execution
from signal_ledger.history import History
from signal_ledger.offline import Notebook, offline
from signal_ledger.recorded import RecordedEvent
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.rerun_report import RerunReport
from signal_ledger.rerunning import OfflineEngine, RecordedRoom, RecordedRun, to_report
from signal_ledger_adapters.oban_api import hook_offline, path_of, run_process


async def rerun(
    worker: type,
    history: History | Iterable[RecordedEvent],
    *,
    run: int | None = None,
    args: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    attempt: int | None = None,
) -> RerunReport:
    """Run a worker's `process` once on a recorded history: to debug an incident, and to test that it is over.

    Each await returns or raises what it did then. Nothing is written, and no database is needed: signals and jobs that
    `process` would send or enqueue are listed in the report. It stops at the first await without an outcome, and where
    `process` asks for something that the history does not hold: then the code has changed, or it is not deterministic.
    The other effects of `process`, such as calls of other services, are its own: patch them.

    It runs in the calling task, so ``breakpoint()`` works. `process` gets a `Job` of that time, as far as the history
    tells; neither the worker's timeout nor its retries apply.

    Args:
        worker: The class with ``@worker()``, or the function with ``@job()``.
        history: What `Ledger.export` or `History.load` gave; or a job's recorded events from the first one on. Cut by
            `History.until`, it stops earlier.
        run: Which run, from 1; the last one unless given.
        args: The job's args; those of the history's row unless given.
        meta: The job's meta; that of the row without ``wait_until``, or a step's plan, unless given.
        attempt: The job's attempt; that of the run's last execution unless given.

    Returns:
        How it ended and what it asked for; ``str()`` of it tells people.

    Raises:
        TypeError: An argument is of another type than expected.
        ValueError: The history has no row and ``args`` is not given, or an argument is out of range.

    Example:
        >>> import asyncio
        >>> from oban import worker
        >>> from signal_ledger import await_signal, lite, rerun
        >>>
        >>> @worker()
        ... class Purchase:
        ...     async def process(self, job):
        ...         print(f"order {job.args['order']} is", await await_signal(channel="approval"))
        >>>
        >>> async def main():
        ...     async with lite("sqlite:///signals.db", queues={}) as engine:
        ...         job = await Purchase.enqueue({"order": 7})
        ...         await engine.signal(job, "approved", channel="approval")
        ...         history = await engine.ledger.export(job)
        ...     report = await rerun(Purchase, history)
        ...     print(report.ended, "at", report.stopped_at)
        >>>
        >>> asyncio.run(main())
        stopped at await 1 on channel 'approval', before which the history ends
    """
    given: object = worker
    if not isinstance(given, type) or not hasattr(given, "process"):
        raise TypeError(f"worker: expected a class with @worker() or a function with @job(), got {type_name(given)}")
    if not isinstance(history, Iterable):
        raise TypeError(f"history: expected a History or recorded events, got {type_name(history)}")
    whole = history if isinstance(history, History) else History.of(history)
    recorded = RecordedRun(whole, run)
    job = _to_job(worker, whole, recorded, args=args, meta=meta, attempt=attempt)
    notebook, room = Notebook(), RecordedRoom(recorded)
    result, error = await _run(worker, job, room, notebook, recorded)
    return to_report(
        recorded,
        room,
        notebook,
        worker=path_of(worker),
        attempt=job.attempt,
        result=result,
        result_text=_text(result),
        error=error,
        notes=_notes(worker, whole, recorded, job.attempt),
    )


async def _run(
    worker: type, job: Job, room: RecordedRoom, notebook: Notebook, recorded: RecordedRun
) -> tuple[object, BaseException | None]:
    """Run `process`, and return what it returned and what it raised."""
    hook_offline()
    execution = Execution(
        job_id=recorded.job_id, token=recorded.last_execution, engine=OfflineEngine(notebook), room=room
    )
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    cancels = task.cancelling()
    result, error = None, None
    with offline(notebook):
        try:
            result = await run_process(worker, job, execution)
        except BdbQuit:
            # The debugger was left.
            raise
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - whatever process raises is told
            error = raised
    if task.cancelling() > cancels:
        # The rerun itself was cancelled.
        raise asyncio.CancelledError
    return result, error


def _to_job(
    worker: type,
    history: History,
    recorded: RecordedRun,
    *,
    args: Mapping[str, Any] | None,
    meta: Mapping[str, Any] | None,
    attempt: int | None,
) -> Job:
    """Make the job as `process` saw it, as far as the history tells."""
    row = history.job
    for name, value in (("args", args), ("meta", meta)):
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name}: expected a dict, got {type_name(value)}")
    if args is None and row is None:
        raise ValueError(
            f"args: expected the args of job {history.job_id}, whose row the history does not hold; "
            "give them by args={...}"
        )
    number = _to_attempt(attempt, recorded, row)
    attempted_at = _attempted_at(history, recorded)
    return Job(
        path_of(worker) if row is None else row.worker,
        id=history.job_id,
        state=JobState.EXECUTING,
        attempt=number,
        args=_copy(row.args if args is None and row is not None else args),
        meta=_copy(_meta(recorded, row) if meta is None else meta),
        attempted_at=attempted_at,
        **_columns(row, number, attempted_at),
        _validate=False,
    )


def _columns(row: RecordedJob | None, attempt: int, attempted_at: datetime) -> dict[str, Any]:
    """Return what is plainly the row's; what came later is left out."""
    if row is None:
        return {"inserted_at": attempted_at, "scheduled_at": attempted_at, "max_attempts": max(20, attempt)}
    return {
        "queue": row.queue,
        "max_attempts": row.max_attempts,
        "priority": row.priority,
        "tags": list(row.tags),
        "errors": [_copy(error) for error in row.errors if _is_before(error.get("attempt"), attempt)],
        "attempted_by": list(row.attempted_by),
        "inserted_at": row.inserted_at,
        "scheduled_at": min(row.scheduled_at, attempted_at),
    }


def _is_before(attempt: object, this: int) -> bool:
    return not isinstance(attempt, int) or attempt < this


def _to_attempt(attempt: int | None, recorded: RecordedRun, row: RecordedJob | None) -> int:
    if attempt is None:
        return recorded.attempt or max(1, 1 if row is None else row.attempt)
    if type(attempt) is not int or attempt < 1:
        raise ValueError(f"attempt: expected an int from 1 on, got {attempt!r}")
    return attempt


def _attempted_at(history: History, recorded: RecordedRun) -> datetime:
    """Return when the last execution began: the row's time, unless a later execution has put its own there."""
    row = history.job
    began = recorded.began
    from_row = None if row is None else row.attempted_at
    if from_row is not None and (began is None or from_row <= began.recorded_at):
        return from_row
    if began is not None:
        return began.recorded_at
    if row is not None:
        return row.inserted_at
    return history[0].recorded_at if history else datetime.now(UTC)


def _meta(recorded: RecordedRun, row: RecordedJob | None) -> Mapping[str, Any]:
    if row is not None:
        return {key: value for key, value in row.meta.items() if key != WAIT_UNTIL}
    return {} if recorded.plan is None else recorded.plan.to_meta()


def _copy(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """`process` may change what it gets; the history stays as it is."""
    return deepcopy(dict(document or {}))


def _text(result: object) -> str:
    """Tell what `process` returned, without values that may be payloads."""
    match result:
        case None | Cancel() | Snooze():
            return str(result)
        case _:
            return f"a value of type {type(result).__name__}"


def _notes(worker: type, history: History, recorded: RecordedRun, attempt: int) -> list[str]:
    row = history.job
    if row is None:
        return []
    notes = [] if row.worker == path_of(worker) else [f"The job's worker was {row.worker}."]
    is_last_run = recorded.number == history[-1].run if history else True
    if is_last_run and row.state in ("executing", "retryable") and row.attempt > attempt:
        notes.append(
            f"The job's row is at attempt {row.attempt}. An attempt that asks for nothing new leaves no events, and a "
            f"history that was cut holds none of what came later: attempt={row.attempt} runs that attempt."
        )
    return notes
