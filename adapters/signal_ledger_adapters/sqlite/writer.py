"""One writer for a process: operations that arrive while a transaction is being committed share the next one.

There is no timer: a lone caller pays for nothing but its own commit, and under load the batches form by themselves. The
result of an operation is handed over after the commit, never before.

The event loop runs the operations, since two threads that both run Python cost twice the time of one. A thread waits
for what may take long: a write lock that another process holds, commits on a disk that is slow to sync, checkpoints.
Commits that take less than a handover to the thread and back are made in place (docs/adr/0005-one-writer.md has the
figures).
"""

import asyncio
import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from signal_ledger.errors import KeyConflict
from signal_ledger.operations import DeliverCall
from signal_ledger.telemetry.names import BATCH_RETRY, BATCH_STOP
from signal_ledger.telemetry.registry import execute, observed
from signal_ledger.unit import Operation
from signal_ledger.upcast import NewerEventError
from signal_ledger_adapters.sqlite.connection import unavailable_error
from signal_ledger_adapters.sqlite.identity import Identity
from signal_ledger_adapters.sqlite.ids import PassIds
from signal_ledger_adapters.sqlite.unit import GivenIds, Known, SqliteUnit
from signal_ledger_adapters.sqlite.waiter import Waiter, error_of

logger = logging.getLogger(__name__)

BATCH_OPERATIONS_MAX = 256
"""Bounds a transaction, and how long the event loop is busy with one: some 20 ms."""

BATCH_BYTES_MAX = 8 * 1024 * 1024

QUICK_COMMIT_S = 0.001
"""Commits are made in the event loop as long as the latest took less than this; a slow one sends the next ones away."""

_FORGET_SLOWNESS = 0.9

CHECKPOINT_PAGES = 4000
"""After about so many changed pages, 16 MiB, the write-ahead log is written back, in the thread.

SQLite would do it four times as often by itself. A page that many transactions change is written back once for all of
them, and a batch that waits for it waits for two syncs.
"""

_PAGE_BYTES = 4096

# How long to sleep between two tries for a write lock. SQLite's own waiting sleeps up to 100 ms at a time.
_LOCK_DELAYS_S = (0.0002, 0.0005, 0.001, 0.001, 0.002, 0.002, 0.005)
_LOCK_WARNING_S = 5.0

_WHAT = "write"
"""What those who listen to events are told of a batch: it holds all kinds of operations."""

# What an operation may raise before it has written anything: its own refusal, no fault of its batch.
_REFUSALS = (KeyConflict, NewerEventError)


@dataclass(slots=True, eq=False)
class _Request:
    """An operation and the caller that awaits it, maybe in another event loop."""

    operation: Operation[SqliteUnit, Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    ends_at: float
    size_bytes: int
    result: Any = None
    error: Exception | None = None

    @property
    def is_withdrawn(self) -> bool:
        """Whether the caller has given up."""
        return self.future.done()

    def settle(self, result: object, error: Exception | None) -> None:
        """Answer the caller, in its event loop, unless it has its answer or has given up."""
        if asyncio.get_running_loop() is self.loop:
            self._settle(result, error)
            return
        try:
            self.loop.call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:
            logger.debug("an event loop was closed before its result came")

    def _settle(self, result: object, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Writer:
    """Runs operations in transactions, one after the other.

    Args:
        connection: Used by the writer alone from now on.
        path: The file, for messages.
        clock: Returns the present time as an aware UTC datetime.
        identity: Tells whether what is committed will be found again.
        given: The ids of jobs that are not given again.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        clock: Callable[[], datetime],
        identity: Identity,
        given: GivenIds,
    ) -> None:
        self._connection = connection
        self._path = path
        self._identity = identity
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiter = Waiter(f"signal-ledger-{path.name}", self._loop)
        self._known = Known(given)
        self._requests: deque[_Request] = deque()
        self._alone: deque[_Request] = deque()
        self._batch: list[_Request] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._began: int | None = None
        self._commit_s = QUICK_COMMIT_S
        self._changed_pages = 0
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._is_busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_waiting_for_lock = False
        self._is_closed = False

    async def run[R](self, operation: Operation[SqliteUnit, R], *, timeout_s: float | None = None) -> R:
        """Run an operation in a transaction.

        If the caller is cancelled, or its time is up, before the operation has begun, it is never run.

        Raises:
            TimeoutError: It had not ended within ``timeout_s``.
            StoreUnavailableError: The database could not do it; the same operation may succeed later.
            RuntimeError: The writer is closed, or was opened before this process was forked.
        """
        self._identity.own_process.require()
        if self._is_closed:
            raise self._closed_error()
        loop = asyncio.get_running_loop()
        ends_at = math.inf if timeout_s is None else time.monotonic() + timeout_s
        request = _Request(operation, loop, loop.create_future(), ends_at, operation.size_bytes)
        result: R
        if loop is self._loop:
            self._accept(request)
            result = await request.future
            return result
        try:
            self._loop.call_soon_threadsafe(self._accept, request)
        except RuntimeError:
            raise self._closed_error() from None
        # The writer's event loop may be held up by somebody: the time is kept here.
        async with asyncio.timeout(timeout_s):
            result = await request.future
        return result

    async def close(self) -> None:
        """Finish what has been asked for and close the connection."""
        if not self._is_closed:
            self._is_closed = True
            await self._idle.wait()
            if self._changed_pages:
                # Whoever opens the file for a few writes only leaves no long log behind.
                self._waiter.send(self._write_back, lambda _error: None)
            await self._waiter.close()
            self._connection.close()
            if self._timer is not None:
                self._timer.cancel()

    def _accept(self, request: _Request) -> None:
        if self._is_closed:
            # It comes from another thread, and was on its way when the writer was closed.
            request.settle(None, self._closed_error())
            return
        self._requests.append(request)
        if request.ends_at < self._timer_at:
            self._watch_time(request.ends_at)
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            self._go_on()

    def _watch_time(self, ends_at: float) -> None:
        """Look then for whom time is up. One timer for all: one for each call would cost a tenth of the call."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = ends_at
        self._timer = (
            None if ends_at == math.inf else self._loop.call_later(ends_at - time.monotonic(), self._time_is_up)
        )

    def _time_is_up(self) -> None:
        now = time.monotonic()
        reason = (f"another program holds the write lock of {self._path}",) if self._is_waiting_for_lock else ()
        waiting = [one for one in (*self._batch, *self._alone, *self._requests) if not one.is_withdrawn]
        for request in waiting:
            if request.ends_at <= now:
                request.settle(None, TimeoutError(*reason))
        self._watch_time(min([one.ends_at for one in waiting if one.ends_at > now], default=math.inf))

    def _go_on(self) -> None:
        # Not at once: whoever else is ready in this turn of the event loop comes along.
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        """Begin the next transaction, or rest."""
        self._batch = batch = self._next_batch()
        if not batch:
            self._is_busy = False
            self._idle.set()
        elif self._try_begin():
            self._work(batch)
        else:
            self._waiter.send(lambda: self._wait_for_lock(batch), lambda error: self._locked(batch, error))

    def _next_batch(self) -> list[_Request]:
        """Take what has gathered, within bounds; an operation whose batch failed goes alone."""
        while self._alone:
            request = self._alone.popleft()
            if not request.is_withdrawn:
                return [request]
        batch: list[_Request] = []
        size = 0
        while self._requests and len(batch) < BATCH_OPERATIONS_MAX and size < BATCH_BYTES_MAX:
            request = self._requests.popleft()
            if not request.future.done():
                batch.append(request)
                size += request.size_bytes
        return batch

    def _try_begin(self) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            # Locked, or a fault that the thread will meet and report.
            return False
        return True

    def _wait_for_lock(self, batch: list[_Request]) -> None:
        """Try for the write lock until it is there, or nobody waits for it any more. In the thread."""
        warn_at = time.monotonic() + _LOCK_WARNING_S
        tries = 0
        while not all(request.is_withdrawn for request in batch):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            else:
                return
            self._is_waiting_for_lock = True
            if time.monotonic() > warn_at:
                self._warn([*batch, *self._requests.copy()])
                warn_at += _LOCK_WARNING_S
            time.sleep(_LOCK_DELAYS_S[min(tries, len(_LOCK_DELAYS_S) - 1)])
            tries += 1

    def _warn(self, waiting: list[_Request]) -> None:
        # Ids wait for the transaction of a caller, which may take as long as it likes; what comes behind them may not.
        if not all(isinstance(one.operation, PassIds) for one in waiting):
            logger.warning("%s: another program holds the write lock; %d operations wait", self._path, len(waiting))

    def _locked(self, batch: list[_Request], error: Exception | None) -> None:
        self._is_waiting_for_lock = False
        if error is not None:
            self._failed(batch, error)
        elif self._connection.in_transaction:
            self._work(batch)
        else:
            self._go_on()

    def _work(self, batch: list[_Request]) -> None:
        """Run the operations of a batch, inside of their transaction; then commit it."""
        self._began = time.monotonic_ns() if BATCH_STOP in observed else None
        changes = self._connection.total_changes
        try:
            # Before anything is written: what cannot be kept is refused, not left unknown.
            self._identity.check()
            self._run_all(batch)
        except Exception as error:  # noqa: BLE001 - handed to the caller it belongs to
            self._failed(batch, error)
            return
        changes = self._connection.total_changes - changes
        if not changes:
            # Nothing to sync: an operation that only looked, or was refused.
            self._connection.execute("ROLLBACK")
            self._committed(batch, None)
            return
        # A row changes a page or two; large payloads have pages of their own.
        size_bytes = sum([request.size_bytes for request in batch])
        self._changed_pages += changes + size_bytes // _PAGE_BYTES
        if self._commit_s < QUICK_COMMIT_S and self._changed_pages < CHECKPOINT_PAGES:
            self._committed(batch, error_of(self._commit))
        else:
            self._waiter.send(self._commit_and_write_back, lambda error: self._committed(batch, error))

    def _run_all(self, batch: list[_Request]) -> None:
        self._known.forget_if_changed(self._connection)
        # The clock is read under the lock: no event is recorded at a time before its transaction's turn (W7).
        unit = SqliteUnit(self._connection, self._clock(), self._known)
        unit.load([job_id for request in batch for job_id in request.operation.job_ids])
        for request in batch:
            if request.future.done():
                continue
            try:
                request.result = request.operation.run(unit)
            except _REFUSALS as refusal:
                request.error = refusal
        unit.flush()

    def _commit(self) -> None:
        started = time.monotonic()
        self._connection.execute("COMMIT")
        # The slowest of the last commits, which is forgotten gradually.
        self._commit_s = max(time.monotonic() - started, self._commit_s * _FORGET_SLOWNESS)

    def _commit_and_write_back(self) -> None:
        """In the thread."""
        self._commit()
        if self._changed_pages >= CHECKPOINT_PAGES:
            self._write_back()

    def _write_back(self) -> None:
        self._changed_pages = 0
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            # What was committed is safe in the write-ahead log; the next checkpoint takes it along.
            logger.warning("%s: the write-ahead log could not be written back yet: %s", self._path, error)

    def _committed(self, batch: list[_Request], error: Exception | None) -> None:
        # Asked again now: nobody may be told of a commit to a file that has been deleted meanwhile (D1).
        error = error or error_of(self._identity.check)
        if error is not None:
            self._failed(batch, error)
            return
        if self._began is not None:
            self._tell_stop(batch, time.monotonic_ns() - self._began)
        for request in batch:
            if request.error is not None or request.loop is not self._loop:
                request.settle(request.result, request.error)
            elif not request.future.done():
                request.future.set_result(request.result)
        self._go_on()

    def _failed(self, batch: list[_Request], error: Exception) -> None:
        """Nothing of the batch was kept. Each of its operations is run again alone, or told of the fault."""
        self._known.forget()
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                logger.exception("%s: a transaction could not be rolled back", self._path)
        if len(batch) > 1:
            if BATCH_RETRY in observed:
                told = {"what": _WHAT, "calls": len(batch), "error_type": type(error).__name__}
                execute(BATCH_RETRY, told)
            for request in batch:
                request.result = request.error = None
                if isinstance(request.operation, DeliverCall):
                    # A commit that failed may have happened all the same: the ids are not new any more (D6).
                    request.operation = request.operation.again()
            self._alone.extend(batch)
        else:
            [request] = batch
            request.settle(None, self._translate(error))
        self._go_on()

    def _tell_stop(self, batch: list[_Request], duration: int) -> None:
        rows = sum([len(request.operation.job_ids) for request in batch])
        execute(BATCH_STOP, {"what": _WHAT, "calls": len(batch), "rows": rows, "duration": duration})

    def _closed_error(self) -> RuntimeError:
        return RuntimeError(f"{self._path}: expected an open ledger, this one has been closed")

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            return unavailable_error(self._path, error)
        return error
