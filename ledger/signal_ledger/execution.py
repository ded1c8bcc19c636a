"""One execution of a job, as far as it waits: `await_signal` and the control flow that ends it in a snooze."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from signal_ledger.codec import decode
from signal_ledger.commands import Snooze, Take
from signal_ledger.decisions import (
    CancelRequested,
    GotSignal,
    GotTimeout,
    MustSnooze,
    OutOfOrder,
    Stale,
    TakeReply,
    Waiting,
)
from signal_ledger.engines import Engine
from signal_ledger.errors import PayloadError, SignalTimeout, StaleExecution
from signal_ledger.names import Execution as Token
from signal_ledger.names import JobId, public_channel
from signal_ledger.offline import current_notebook
from signal_ledger.ports import LiveWait, StoreUnavailableError, WaitingRoom
from signal_ledger.telemetry.names import AWAITED, CONSUMED, EXECUTION, TIMED_OUT
from signal_ledger.telemetry.registry import SpanContext, execute, observed, span
from signal_ledger.telemetry.tracing import TRACES
from signal_ledger.upcast import NewerEventError

logger = logging.getLogger(__name__)

NEWER_EVENT_DELAY_S = 60
"""How long a job is snoozed that only a newer version of this library can continue (promise L8)."""

UNAVAILABLE_DELAY_S = 1
"""How long a job is snoozed that could not reach the ledger: that is no fault of the job, and does not fail it."""

CLOCK_SLACK_S = 1.0
"""How much longer than its wait a live window in place may take, by this process's clock."""

LEFTOVER_GRACE_S = 5.0
"""How long a cancelled task of an ended execution may take to end."""


class EndExecution(BaseException):
    """Ends `process` where it awaits. Derives from ``BaseException`` so that ``except Exception`` lets it pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """The execution ends to sleep on a wait."""

    wait: Snooze


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The execution ends because the job was cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """The execution ends without a trace: a newer one owns the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TryLater:
    """The execution ends with a plain snooze: this process cannot continue the job."""

    seconds: int


type Ending = Sleep | Cancelled | Superseded | TryLater
"""Why an execution ended at an await. Once set it stands, whatever `process` does after it (promise W11)."""

_ENDED: Mapping[type, str] = {
    type(None): "returned",
    Sleep: "snoozed",
    Cancelled: "cancelled",
    Superseded: "superseded",
    TryLater: "later",
}

_MICROSECOND = timedelta(microseconds=1)

_current: ContextVar["Execution | None"] = ContextVar("signal_ledger_execution", default=None)


_tell_stray: Callable[[], None] | None = None


def current_execution() -> "Execution | None":
    """Return the execution that the calling task belongs to, also after it has ended."""
    return _current.get()


@contextmanager
def no_execution() -> Generator[None, None, None]:
    """What runs inside belongs to no execution, though the task may."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def when_stray(tell: Callable[[], None]) -> None:
    """Have an engine told when somebody awaits outside of every execution: it may be a job that it knows."""
    global _tell_stray  # noqa: PLW0603 - as the hooks that set it, one for the process
    _tell_stray = tell


def report_stray() -> None:
    """Tell it."""
    if _tell_stray is not None:
        _tell_stray()


def _ns(duration: timedelta) -> int:
    return duration // _MICROSECOND * 1000


def snoozed(wait: Snooze) -> dict[str, object]:
    """Return what the event tells of a wait that a job sleeps on, for the engine that has put it to sleep."""
    return {
        "job_id": wait.job_id,
        "execution": wait.execution,
        "channel": public_channel(wait.channel),
        "ordinal": wait.ordinal,
    }


class Execution:
    """One execution of a job.

    Args:
        job_id: The job.
        token: The execution's token.
        engine: The engine that runs it, for signals sent from inside of it.
        room: The engine's waiting room.
        ends_by: The event loop's time by which the execution must have ended, because a timeout or a rescue would
            end it; None if it may go on.
        worker: The path of the job's worker, for those who listen to events; None if the engine does not know.
    """

    def __init__(
        self,
        *,
        job_id: JobId,
        token: Token,
        engine: Engine,
        room: WaitingRoom,
        ends_by: float | None = None,
        worker: str | None = None,
    ) -> None:
        self.job_id = job_id
        self.token = token
        self.engine = engine
        self.ending: Ending | None = None
        self._room = room
        self._worker = worker
        self._span_context: SpanContext | None = None
        self._ends_by = ends_by
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._ended: Counter[str] = Counter()
        self._is_over = False
        self._waiting: set[LiveWait] = set()

    async def run[R](self, process: Callable[[], Awaitable[R]]) -> R | None:
        """Run `process` so that awaits inside of it belong to this execution.

        Returns:
            What it returned. If the execution has an ending, that stands, whatever process returned or raised.
        """
        # A rerun is nothing that happens.
        if EXECUTION in observed and current_notebook() is None:
            with span(EXECUTION, {"job_id": self.job_id, "execution": self.token, "worker": self._worker}) as told:
                self._span_context = told.context
                result = await self._run(process)
                told.add({"ended": _ENDED[type(self.ending)]})
                return result
        return await self._run(process)

    async def _run[R](self, process: Callable[[], Awaitable[R]]) -> R | None:
        token = _current.set(self)
        result = None
        try:
            result = await process()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            if self.ending is None:
                raise
        finally:
            _current.reset(token)
            self._is_over = True
            for live in self._waiting:
                live.give_hint()
        if self.ending is not None:
            await self._cancel_leftovers()
        return result

    async def await_signal(self, wait_for: timedelta | None, wait_timeout: timedelta, channel: str) -> object:
        """Wait for the next signal on a channel; see `signal_ledger.await_signal`."""
        self._require_running()
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"await_signal: expected the event loop that runs job {self.job_id}, got another one")
        async with self._turn:
            self._require_running()
            if self.ending is not None:
                raise self._end(self.ending)
            ordinal = self._ended[channel] + 1
            reply = await self._outcome(wait_for, wait_timeout, channel, ordinal)
            self._ended[channel] = ordinal
        return self._result(reply, channel, ordinal)

    async def _outcome(
        self, wait_for: timedelta | None, wait_timeout: timedelta, channel: str, ordinal: int
    ) -> GotSignal | GotTimeout:
        in_place = wait_for is not None and wait_for <= wait_timeout
        # A wait in place ends at its deadline, by the store's clock. Should that stand still, it is snoozed.
        window_s = self._window_s(wait_timeout.total_seconds() + (CLOCK_SLACK_S if in_place else 0))
        # The place is taken before the first look, so that no hint is missed between the two.
        live = self._room.enter(self.job_id) if window_s > 0 else None
        try:
            take = Take(
                job_id=self.job_id,
                execution=self.token,
                channel=channel,
                ordinal=ordinal,
                wait_for=wait_for,
                in_place=in_place,
                window=live is not None,
                wants_trace=TRACES in observed,
            )
            window_ends = self._loop.time() + window_s
            reply = await self._take(take)
            if live is not None and isinstance(reply, Waiting):
                if AWAITED in observed:
                    self._tell(
                        AWAITED, channel, ordinal, {"deadline_in": None if reply.left is None else _ns(reply.left)}
                    )
                reply = await self._live(live, take, reply, window_ends)
        finally:
            if live is not None:
                self._room.leave(self.job_id, live)
        match reply:
            case GotSignal() | GotTimeout():
                if CONSUMED in observed or TIMED_OUT in observed:
                    self._tell_outcome(reply, channel, ordinal)
                return reply
            case Waiting() | MustSnooze():
                snooze = Snooze(
                    job_id=self.job_id, execution=self.token, channel=channel, ordinal=ordinal, wait_for=wait_for
                )
                raise self._end(Sleep(wait=snooze))
            case _:
                assert_never(reply)

    def _window_s(self, wanted: float) -> float:
        """How long the live window may be."""
        return wanted if self._ends_by is None else min(wanted, max(0.0, self._ends_by - self._loop.time()))

    async def _live(self, live: LiveWait, take: Take, reply: Waiting, window_ends: float) -> TakeReply:
        """Wait for hints and look again, until there is an outcome or the window is over."""
        self._waiting.add(live)
        try:
            return await self._watch(live, take, reply, window_ends)
        finally:
            self._waiting.discard(live)

    async def _watch(self, live: LiveWait, take: Take, reply: Waiting, window_ends: float) -> TakeReply:
        while not self._room.is_closing:
            left_s = window_ends - self._loop.time()
            if left_s <= 0:
                break
            if reply.left is not None:
                # At least a millisecond: the store's clock must have passed the deadline, not just reached it.
                left_s = min(left_s, max(0.001, reply.left.total_seconds()))
            await live.hint(left_s)
            self._require_running()
            again = await self._take(take)
            if not isinstance(again, Waiting):
                return again
            reply = again
        return MustSnooze()

    async def _take(self, take: Take) -> TakeReply:
        try:
            reply = await self._room.take(take)
        except NewerEventError as error:
            logger.warning("%s; job %d is tried again in %d s", error, self.job_id, NEWER_EVENT_DELAY_S)
            raise self._end(TryLater(seconds=NEWER_EVENT_DELAY_S)) from None
        except StoreUnavailableError as error:
            logger.warning("job %d cannot wait; tried again in %d s: %s", self.job_id, UNAVAILABLE_DELAY_S, error)
            raise self._end(TryLater(seconds=UNAVAILABLE_DELAY_S)) from None
        match reply:
            case Stale():
                raise self._end(Superseded())
            case CancelRequested():
                raise self._end(Cancelled())
            case OutOfOrder(expected=expected):
                raise RuntimeError(f"job {self.job_id}: expected await {expected} of its channel next")
            case _:
                return reply

    def _result(self, reply: GotSignal | GotTimeout, channel: str, ordinal: int) -> object:
        match reply:
            case GotTimeout(deadline_at=deadline_at):
                raise SignalTimeout(
                    job_id=self.job_id, channel=public_channel(channel), ordinal=ordinal, deadline_at=deadline_at
                )
            case GotSignal(signal_id=signal_id, payload=payload):
                if payload is None:
                    raise PayloadError(f"job {self.job_id}: the payload of delivery {signal_id} was erased")
                return decode(payload)
            case _:
                assert_never(reply)

    def _tell_outcome(self, reply: GotSignal | GotTimeout, channel: str, ordinal: int) -> None:
        """Tell how a wait has ended, if that was now, and is no replay."""
        match reply:
            case GotSignal(recorded_at=datetime() as recorded_at, delivered_at=datetime() as delivered_at):
                latency = _ns(recorded_at - delivered_at)
                told = {"signal_id": reply.signal_id, "wake_latency": latency, "traceparent": reply.traceparent}
                self._tell(CONSUMED, channel, ordinal, told)
            case GotTimeout(recorded_at=datetime() as recorded_at, deadline_at=deadline_at):
                overdue = _ns(recorded_at - deadline_at)
                self._tell(TIMED_OUT, channel, ordinal, {"deadline_at": deadline_at, "overdue": overdue})
            case _:
                return

    def _tell(self, name: str, channel: str, ordinal: int, more: Mapping[str, object]) -> None:
        told = {
            "job_id": self.job_id,
            "execution": self.token,
            "channel": public_channel(channel),
            "ordinal": ordinal,
            "span_context": self._span_context,
        }
        execute(name, {**told, **more})

    def _require_running(self) -> None:
        if self._is_over:
            raise RuntimeError(f"await_signal: job {self.job_id}'s process has returned; await inside of it")

    def _end(self, ending: Ending) -> BaseException:
        """Settle the ending and return what to raise for it; after the return of `process` nothing is settled."""
        if not self._is_over:
            self.ending = ending
        if isinstance(ending, Superseded):
            return StaleExecution(job_id=self.job_id, execution=self.token)
        return EndExecution()

    async def _cancel_leftovers(self) -> None:
        """Cancel the tasks that `process` started and left running (promise W4)."""
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own and task.get_context().get(_current) is self]
        for task in tasks:
            task.cancel()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=LEFTOVER_GRACE_S)
            if stubborn:
                logger.warning("job %d: %d tasks did not end when cancelled", self.job_id, len(stubborn))
