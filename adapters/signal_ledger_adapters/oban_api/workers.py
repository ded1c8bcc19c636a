"""Workers: what lets their `process` wait, and turns its ending into a result that Oban understands."""

import asyncio
import functools
import inspect
import logging
import math
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from oban import Cancel, Job, Snooze, current_job
from oban._backoff import jittery_clamped
from oban._executor import AckAction, Executor, _current_job
from oban.worker import _registry, resolve_worker, worker_name

from signal_ledger.embedded.job_row import INDEFINITELY
from signal_ledger.execution import Cancelled, Execution, Sleep, Superseded, TryLater, no_execution
from signal_ledger.jobs import CANCELLED_WHILE_WAITING
from signal_ledger.names import Execution as Token
from signal_ledger_adapters.oban_api.chain import chain
from signal_ledger_adapters.oban_api.producers import is_fetched

logger = logging.getLogger(__name__)

_EXTRA = "signal_ledger"
_TOO_EARLY = "signal_ledger_too_early"
_TOO_EARLY_S = 1
_WRAPPED = "_signal_ledger_wrapped"

# A worker's own timeout would fail the job; it is snoozed this much earlier, so that the snooze has time to happen.
_MARGIN_SHARE = 0.1
_MARGIN_MAX_S = 1.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class _Binding:
    """What a job carries from its engine to its worker's `process` and back.

    Args:
        begin: Makes the execution, given the event loop's time by which it must end.
        execution: Once it has begun.
    """

    begin: Callable[[float | None], Execution]
    execution: Execution | None = None


def hook_workers() -> None:
    """Hook into Oban's workers, once for the process: every worker's `process` can wait from now on."""
    if chain("worker.after_register", _no_register, _chain_register):
        for worker_class in list(_registry.values()):
            _wrap(worker_class)
    chain("executor.wrap_result", _same_result, _chain_result)


def attach_execution(job: Job, begin: Callable[[float | None], Execution]) -> None:
    """Let the job's `process` wait. ``begin`` is called when it starts."""
    job.extra[_EXTRA] = _Binding(begin)
    # A class without a decorator never passes the registration hook.
    try:
        _wrap(resolve_worker(job.worker))
    except Exception:  # noqa: BLE001 - the executor meets it again, and makes it the job's error
        logger.debug("job %s: its worker cannot be resolved", job.id)


async def run_process(worker_class: type[Any], job: Job, execution: Execution) -> object:
    """Run a worker's `process` once in an execution, without Oban's executor: no timeout, no retry, no telemetry."""
    # As if it had begun already: a `process` that is wrapped for engines begins none of its own.
    job.extra[_EXTRA] = _Binding(lambda _ends_by: execution, execution)
    token = _current_job.set(job)
    try:
        return await execution.run(lambda: worker_class().process(job))
    finally:
        _current_job.reset(token)


def path_of(worker_class: type) -> str:
    """Return the path that jobs name a worker by."""
    return worker_name(worker_class)


def put_off_early_job() -> None:
    """Let the job that runs here end in a snooze, if it was fetched before there were hooks: it cannot wait yet."""
    job = current_job()
    if job is not None and _EXTRA not in job.extra and is_fetched(job):
        job.extra[_TOO_EARLY] = True


def execution_of(job: Job) -> Execution | None:
    """Return the execution that `attach_execution` led to; None if `process` was never entered."""
    binding = job.extra.get(_EXTRA)
    return binding.execution if isinstance(binding, _Binding) else None


def acknowledgement_of(executor: Executor) -> AckAction:
    """Return how an executor's job ended."""
    action: AckAction | None = executor.action
    if action is None:
        raise RuntimeError("expected oban's executor to have an action after execute(); this Oban is not supported")
    return action


def oban_name_of(worker: str) -> str:
    """Return the name of the engine that a worker's jobs are enqueued with: ``@worker(oban=...)``.

    Raises:
        WorkerResolutionError: There is no worker of this path.
    """
    name: str = getattr(resolve_worker(worker), "_oban_name", "Oban")
    return name


def failure_of(job: Job, error: BaseException) -> AckAction:
    """Return how a job ends whose executor failed: as if its worker had raised the error, with Oban's own backoff."""
    has_failed = job.attempt >= job.max_attempts
    text = "".join(traceback.format_exception(error))
    return AckAction(
        job=job,
        state="discarded" if has_failed else "retryable",
        error={"attempt": job.attempt, "at": datetime.now(UTC).isoformat(), "error": text},
        schedule_in=None if has_failed else jittery_clamped(job.attempt, job.max_attempts),
    )


def make_cancellable(job: Job) -> None:
    """Give a job what ``job.cancelled()`` looks at."""
    job._cancellation = asyncio.Event()


def request_cancel(job: Job) -> None:
    """Let ``job.cancelled()`` be true."""
    if job._cancellation is not None:
        job._cancellation.set()


def cancellation_of(job: Job) -> asyncio.Event | None:
    """Return what is set when the job is cancelled while it executes."""
    return job._cancellation


def token_of(job: Job) -> Token:
    """Return the token of a job's execution on Oban: its attempted_at in microseconds since the epoch."""
    if job.attempted_at is None:
        raise ValueError(f"job {job.id}: expected a job that executes, it was never attempted")
    return Token((job.attempted_at - _EPOCH) // _MICROSECOND)


def _no_register(_worker_class: type) -> None:
    """Oban's default for ``worker.after_register``."""


def _same_result(_job: Job, result: object) -> object:
    """Oban's default for ``executor.wrap_result``."""
    return result


def _chain_register(previous: Callable[[type], object]) -> Callable[[type], None]:
    def after_register(worker_class: type) -> None:
        previous(worker_class)
        _wrap(worker_class)

    return after_register


def _chain_result(previous: Callable[[Job, object], object]) -> Callable[[Job, object], object]:
    def wrap_result(job: Job, result: object) -> object:
        """The ending stands, whatever became of it on its way out of `process` (promise W11)."""
        result = previous(job, result)
        return Snooze(_TOO_EARLY_S) if _TOO_EARLY in job.extra else _conclude(job, execution_of(job), result)

    return wrap_result


def _wrap(worker_class: type) -> None:
    process = getattr(worker_class, "process", None)
    if process is None or getattr(process, _WRAPPED, False):
        return
    # As it stands in the class: a static or a class method, too, is bound as Oban would bind it.
    descriptor = inspect.getattr_static(worker_class, "process")

    def bind(instance: object) -> Callable[[Job], Awaitable[object]]:
        bound: Callable[[Job], Awaitable[object]] = descriptor.__get__(instance, type(instance))
        return bound

    @functools.wraps(process)
    async def wrapped(self: Any, job: Job) -> object:  # noqa: ANN401 - any worker
        binding = job.extra.get(_EXTRA)
        if not isinstance(binding, _Binding):
            if current_job() is not job:
                # One worker calls another's process: the awaits are its own.
                return await bind(self)(job)
            # Not ours, though it may be executed inside of another job, in Oban's mode for tests.
            with no_execution():
                return await bind(self)(job)
        if binding.execution is not None:
            # A call of a parent's wrapped process from within.
            return await bind(self)(job)
        binding.execution = execution = binding.begin(_ends_by(self, job))
        result = await execution.run(lambda: bind(self)(job))
        if isinstance(execution.ending, Superseded):
            # What `Executor` does not catch leaves no acknowledgement and no trace: the newer execution owns the job.
            raise asyncio.CancelledError
        return _conclude(job, execution, result)

    setattr(wrapped, _WRAPPED, True)
    setattr(worker_class, "process", wrapped)  # noqa: B010 - a class that checkers know nothing of


def _ends_by(instance: object, job: Job) -> float | None:
    """When the worker's own ``timeout()`` would end it, less a margin, in the event loop's time."""
    timeout: Callable[[Job], float | None] | None = getattr(instance, "timeout", None)
    seconds = None if timeout is None else timeout(job)
    if seconds is None:
        return None
    return asyncio.get_running_loop().time() + seconds - min(_MARGIN_MAX_S, _MARGIN_SHARE * seconds)


def _conclude(job: Job, execution: Execution | None, result: object) -> object:
    """Turn an execution's ending into what Oban's executor understands."""
    match execution and execution.ending:
        case Sleep(wait=wait):
            # Oban counts in whole seconds; the ledger schedules the job to its exact deadline.
            return Snooze(math.ceil((INDEFINITELY if wait.wait_for is None else wait.wait_for).total_seconds()))
        case TryLater(seconds=seconds) if not job.cancelled():
            return Snooze(seconds)
        case Cancelled() | TryLater():
            return Cancel(CANCELLED_WHILE_WAITING)
        case _:
            return result
