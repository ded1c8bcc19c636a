"""Calls that arrive while one is under way share the next round trip and its commit.

There is no timer: a lone caller pays nothing for it, and under load the batches form by themselves. A refusal belongs
to its call; a fault of a batch is sorted out by running its calls one by one. A call whose job somebody else has locked
leaves its batch and waits for the lock elsewhere, so that it holds up no others.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from signal_ledger.ports import StoreUnavailableError
from signal_ledger.telemetry.names import BATCH_RETRY, BATCH_STOP
from signal_ledger.telemetry.registry import execute, observed
from signal_ledger_adapters.postgres.alarm import Alarm
from signal_ledger_adapters.postgres.connection import own_process
from signal_ledger_adapters.postgres.lane import Lane
from signal_ledger_adapters.postgres.losses import LOST, unavailable

logger = logging.getLogger(__name__)

BATCH_ROWS_MAX = 500
BATCH_BYTES_MAX = 8 * 1024 * 1024

_SHARE_MIN = 16
"""Fewer calls are not divided: what a batch costs at all would be paid twice."""

PATIENCE_MS = 100
"""For how long the database waits for a lock before it looks after other calls that wait for one."""

_CLOSE_S = 2.0
"""How long a close that was cancelled waits for connections that are being opened."""

_CONFLICTS_MAX = 20
_CONFLICT_DELAY_S = 0.005

# Rolled back by the database because of another transaction: the same again will do.
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class JobHeldError(Exception):
    """A call was not carried out, because somebody else has locked a job of it."""


class _GivenUpError(Exception):
    """The time of all calls of a batch is over."""


@dataclass(slots=True, eq=False)
class _Request[C, R]:
    call: C
    rows: int
    size: int
    future: "asyncio.Future[R]"
    ends_at: float


class Lanes[C, R]:
    """A few connections that share the calls of a process.

    Args:
        engine: Where the connections come from. Each lane keeps one while it is in use.
        run: Runs a batch: one round trip, one transaction. Is given for how many milliseconds to wait for locks, and
            returns a result for each call, or what to raise for it; or JobHeldError, and the call is tried again.
        lanes: How many batches may be under way at a time.
        what: What a batch does, for those who listen to events; None for what nobody need hear of.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        run: Callable[[asyncpg.Connection, Sequence[C], int], Awaitable[Sequence[R | Exception]]],
        *,
        lanes: int,
        what: str | None = None,
    ) -> None:
        self._run = run
        self._what = what
        self._own_process = own_process()
        self._requests: deque[_Request[C, R]] = deque()
        self._held: deque[_Request[C, R]] = deque()
        self._free = [Lane(engine) for _ in range(lanes)]
        self._waiting = Lane(engine)
        self._is_waiting = False
        self._is_closed = False
        self._starting = 0
        self._lanes = (*self._free, self._waiting)
        self._alarm = Alarm()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, call: C, *, rows: int = 1, size: int = 0, timeout_s: float = 30.0) -> R:
        """Run a call as part of a batch.

        Args:
            call: The call.
            rows: How many jobs it is about.
            size: How many bytes it sends.
            timeout_s: How long to wait for the answer.

        Raises:
            TimeoutError: There was no answer in that time.
            StoreUnavailableError: Try again with the same ids.
            RuntimeError: The lanes are closed, or this is a fork of the process that opened them.
        """
        self._own_process.require()
        if self._is_closed:
            raise RuntimeError("expected an open ledger, this one has been closed")
        loop = asyncio.get_running_loop()
        request = _Request(call, rows, size, loop.create_future(), loop.time() + timeout_s)
        self._requests.append(request)
        if self._free:
            self._starting += 1
            self._start(self._work(self._free.pop()))
        self._alarm.set(request.future, request.ends_at)
        try:
            result: R = await request.future
        finally:
            self._alarm.unset(request.future)
        return result

    async def close(self) -> None:
        """Finish what has been asked for and give the connections back."""
        self._is_closed = True
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            # There are some left if this was cancelled.
            for task in self._tasks:
                task.cancel()
            # And nobody answers the calls that they have left.
            self._alarm.end_all("the ledger was closed before there was an answer")
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_CLOSE_S)
            # Each for itself: a close that is cancelled here leaves none of them half dropped.
            await asyncio.wait([asyncio.ensure_future(lane.drop()) for lane in self._lanes])

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        # In a context of its own: a job cancels the tasks that it left behind, and this one works for all.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, lane: Lane) -> None:
        # What has come until now is shared among the lanes that start now: while one batch is under way, the answers to
        # another are dealt with. In a batch of all, everybody would wait for the server, and then it for them.
        share = max(_SHARE_MIN, -(-len(self._requests) // self._starting))
        self._starting -= 1
        try:
            batch = _next_batch(self._requests, share)
            while batch:
                await self._serve(lane, batch, patience_ms=0)
                batch = _next_batch(self._requests)
        finally:
            self._free.append(lane)

    async def _wait_for_locks(self) -> None:
        """Serve the calls that met locks: all that can be served now, then the one that has waited for longest, ..."""
        try:
            while batch := _next_batch(self._held):
                await self._serve(self._waiting, batch, patience_ms=0)
                if still_held := _next_batch(self._held):
                    longest, *others = still_held
                    self._held.extendleft(reversed(others))
                    await self._serve(self._waiting, [longest], patience_ms=PATIENCE_MS)
        finally:
            self._is_waiting = False

    async def _serve(self, lane: Lane, batch: list[_Request[C, R]], *, patience_ms: int) -> None:
        try:
            results = await self._try(lane, batch, patience_ms)
        except _GivenUpError:
            await lane.drop()
        except LOST as error:
            await lane.drop()
            for request in batch:
                _fail(request, unavailable(error))
        except asyncpg.LockNotAvailableError:
            # The patience was over, or the lock_timeout of the session.
            self._hold(batch)
        except Exception as error:  # noqa: BLE001 - handed to the callers it belongs to
            if len(batch) == 1:
                _fail(batch[0], unavailable(error) if isinstance(error, asyncpg.QueryCanceledError) else error)
                return
            self._tell_retry(batch, error)
            for request in batch:
                await self._serve(lane, [request], patience_ms=patience_ms)
        else:
            self._settle(batch, results)

    def _settle(self, batch: list[_Request[C, R]], results: Sequence[R | Exception]) -> None:
        for request, result in zip(batch, results, strict=True):
            if isinstance(result, JobHeldError):
                self._hold([request])
            elif isinstance(result, Exception):
                _fail(request, result)
            elif not request.future.done():
                request.future.set_result(result)

    def _hold(self, requests: list[_Request[C, R]]) -> None:
        self._held.extend(requests)
        if not self._is_waiting:
            self._is_waiting = True
            self._start(self._wait_for_locks())

    async def _try(self, lane: Lane, batch: list[_Request[C, R]], patience_ms: int) -> Sequence[R | Exception]:
        calls = [request.call for request in batch]
        ends_at = max([request.ends_at for request in batch])
        if not lane.is_open:
            await _open(lane, ends_at)
        for _ in range(_CONFLICTS_MAX):
            # Nobody waits for a query to be cancelled, which a frozen server would never do.
            loop = asyncio.get_running_loop()
            cut = loop.call_at(ends_at, lane.terminate)
            began = time.monotonic_ns() if BATCH_STOP in observed else None
            try:
                results = await self._run(lane.driver, calls, patience_ms)
            except _CONFLICTS as conflict:
                logger.debug("a batch of %d calls is run again: %s", len(batch), conflict)
                self._tell_retry(batch, conflict)
            except Exception as error:
                # A driver whose connection is cut between two steps stumbles over anything.
                if lane.is_open and not isinstance(error, LOST):
                    raise
                if loop.time() >= ends_at:
                    raise _GivenUpError from None
                raise error if isinstance(error, LOST) else ConnectionError("the connection was cut") from error
            else:
                if began is not None and self._what is not None:
                    self._tell_stop(batch, time.monotonic_ns() - began)
                return results
            finally:
                cut.cancel()
            await asyncio.sleep(_CONFLICT_DELAY_S)
        raise StoreUnavailableError("the database rolled the call back again and again: too many conflicts")

    def _tell_stop(self, batch: list[_Request[C, R]], duration: int) -> None:
        rows = sum([request.rows for request in batch])
        execute(BATCH_STOP, {"what": self._what, "calls": len(batch), "rows": rows, "duration": duration})

    def _tell_retry(self, batch: list[_Request[C, R]], error: Exception) -> None:
        if BATCH_RETRY in observed and self._what is not None:
            execute(BATCH_RETRY, {"what": self._what, "calls": len(batch), "error_type": type(error).__name__})


async def _open(lane: Lane, ends_at: float) -> None:
    """Connect, and do not wait for longer than the calls do."""
    loop = asyncio.get_running_loop()
    opening = loop.create_task(lane.open())
    opening.add_done_callback(_forget)
    try:
        await asyncio.wait([opening], timeout=max(0.0, ends_at - loop.time()))
    except asyncio.CancelledError:
        # The lanes are closed, once this has ended: nobody would close what is opened after that.
        await asyncio.wait([opening], timeout=_CLOSE_S)
        opening.cancel()
        raise
    if not opening.done():
        if not lane.terminate():
            opening.cancel()
        raise _GivenUpError
    opening.result()


def _next_batch[C, R](requests: deque[_Request[C, R]], calls_max: int = BATCH_ROWS_MAX) -> list[_Request[C, R]]:
    batch: list[_Request[C, R]] = []
    rows = size = 0
    while requests and len(batch) < calls_max and rows < BATCH_ROWS_MAX and size < BATCH_BYTES_MAX:
        request = requests.popleft()
        if not request.future.done():
            batch.append(request)
            rows += request.rows
            size += request.size
    return batch


def _fail(request: _Request[Any, Any], error: Exception) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _forget(opening: "asyncio.Future[None]") -> None:
    if not opening.cancelled():
        opening.exception()
