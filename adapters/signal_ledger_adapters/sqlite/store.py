"""The SQLite store: one file, one writer thread for each process, and SQLAlchemy for the questions."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from signal_ledger.commands import Deliver, Take
from signal_ledger.decisions import DeliverReply, TakeRefusal, TakeReply
from signal_ledger.embedded.flow import RetrySteps
from signal_ledger.embedded.job_row import JobRow, NewJob
from signal_ledger.embedded.operations import AddNode, GetJobs, SeeSteps
from signal_ledger.embedded.unit import EmbeddedUnit
from signal_ledger.errors import SchemaError
from signal_ledger.names import JobId
from signal_ledger.operations import DeliverCall, TakeCall
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, WaitingJob
from signal_ledger.recorded import RecordedEvent
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.steps import SeenStep
from signal_ledger.unit import Operation
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.sqlite import nodes
from signal_ledger_adapters.sqlite.audit import Audit, SqliteSnapshot
from signal_ledger_adapters.sqlite.callers import insert_jobs, store_signals
from signal_ledger_adapters.sqlite.connection import connect, create_engine, reading
from signal_ledger_adapters.sqlite.identity import Identity
from signal_ledger_adapters.sqlite.ids import PassIds
from signal_ledger_adapters.sqlite.migrate import check, migrate, migrations
from signal_ledger_adapters.sqlite.reader import Reader
from signal_ledger_adapters.sqlite.rebuild import (
    BLOCKS_AT_ONCE,
    DropOrphans,
    IsPast,
    RebuildBlocks,
    RebuildStreams,
    RebuildWorkflow,
)
from signal_ledger_adapters.sqlite.unit import GivenIds
from signal_ledger_adapters.sqlite.writer import Writer

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""How often a follower looks for other processes' commits."""


class SqliteStore:
    """See `signal_ledger.ports.EmbeddedStore`. Get one from `open`.

    Args:
        path: The file.
        clock: Returns the present time as an aware UTC datetime.
        engine: For audit queries.
        writer: None if the store can only be read.
        reader: For small reads.
        identity: Tells whether the file is still the one that was opened.
        given: The ids of jobs that are not given again.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], datetime],
        engine: AsyncEngine,
        writer: Writer | None,
        reader: Reader,
        identity: Identity,
        given: GivenIds,
    ) -> None:
        self._path = path
        self._clock = clock
        self._engine = engine
        self._writer = writer
        self._open_reader = reader
        self._open_audit = Audit(engine, path)
        self._identity = identity
        self._given = given
        self._is_closed = False
        self._passing: set[asyncio.Future[None]] = set()
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls, path: Path, *, clock: Callable[[], datetime], create: bool = False, read_only: bool = False
    ) -> Self:
        """Open a file, and bring its schema up to date unless it is only read.

        Args:
            path: The file.
            clock: Returns the present time as an aware UTC datetime.
            create: Make the file, or the ledger in it, if there is none.
            read_only: Change nothing at all.

        Raises:
            SchemaError: The file cannot serve; the message says why, and nothing was changed.
        """
        if not create and not path.exists():
            raise SchemaError(f"{path} does not exist; `signal-ledger migrate` or lite(url) makes a ledger in it")
        connection = None if read_only else await asyncio.to_thread(connect, path)
        engine = create_engine(path, read_only=read_only)
        try:
            if create:
                await migrate(engine, path, migrations())
            else:
                await check(engine, path, migrations(), may_upgrade=not read_only)
                if not read_only:
                    await migrate(engine, path, migrations())
            reader = Reader(path, clock)
            identity = Identity(path, read_only=read_only)
        except BaseException:
            await engine.dispose()
            if connection is not None:
                connection.close()
            raise
        given = GivenIds()
        writer = None if connection is None else Writer(connection, path, clock, identity, given)
        return cls(path, clock, engine, writer, reader, identity, given)

    async def close(self) -> None:
        """Finish what has been asked for and close the file. In a fork, leave it to the process that opened it."""
        self._identity.own_process.require()
        self._is_closed = True
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        # A cancelled caller leaves it going on; whoever closes again waits for the same.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # A caller's transaction may be open for longer than this ledger: nobody waits for its end.
        for passing in list(self._passing):
            with suppress(RuntimeError):
                # Its event loop may have been closed.
                passing.get_loop().call_soon_threadsafe(passing.cancel)
        if self._writer is not None:
            await self._writer.close()
        self._open_reader.close()
        await self._engine.dispose()

    async def transact[R](self, operation: Operation[EmbeddedUnit, R]) -> R:
        """See `signal_ledger.ports.EmbeddedStore`, as for all methods below."""
        return await self._writing.run(operation)

    async def read[R](self, operation: Operation[EmbeddedUnit, R]) -> R:
        return self._reader.run(operation)

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:
        return await self._writing.run(call, timeout_s=timeout_s)

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        self._require_open()
        await store_signals(connection, self._path, deliveries, self._clock())

    async def take(self, take: Take) -> TakeReply | TakeRefusal:
        return await self._writing.run(TakeCall(take=take))

    async def state(self, job_id: JobId) -> WaitState:
        return await self._audit.state(job_id)

    async def history(self, job_id: JobId, *, cursor: str | None = None) -> list[RecordedEvent]:
        return await self._audit.history(job_id, cursor=cursor)

    async def job(self, job_id: JobId) -> RecordedJob | None:
        rows = self._reader.run(GetJobs(job_ids=(job_id,)))
        return rows[0].recorded if rows else None

    async def is_settled(self, instant: datetime) -> bool:
        # A later event has a later time than the newest one: it is stamped when it has the lock. Only an instant
        # behind that one needs the lock itself.
        newest = await self._audit.newest_at()
        if newest is not None and instant < newest:
            return True
        return self._writer is not None and await self._writer.run(IsPast(instant=instant))

    async def waiting(
        self, *, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None
    ) -> list[WaitingJob]:
        return await self._audit.waiting(channel=channel, deadline_before=deadline_before, limit=limit, after=after)

    async def waits_of(self, job_ids: Sequence[JobId]) -> list[WaitingJob]:
        return await self._audit.waits_of(job_ids)

    async def page(self, wanted: EventFilter, limit: int) -> list[RecordedEvent]:
        return await self._audit.page(wanted, limit)

    async def outbox(self, *, limit: int, after: str | None) -> list[StoredSignal]:
        return await self._audit.outbox(limit=limit, after=after)

    async def steps(self, workflow_id: str) -> list[SeenStep]:
        return self._reader.run(SeeSteps(workflow_id=workflow_id))

    async def retry_steps(self, workflow_id: str, names: Sequence[str]) -> int:
        return await self._writing.run(RetrySteps(workflow_id=workflow_id, names=tuple(names)))

    async def end(self) -> str | None:
        return await self._audit.end()

    def mark(self) -> int:
        return self._reader.mark()

    async def changed(self, mark: int) -> None:
        for _ in range(round(1 / POLL_S)):
            if self._reader.mark() != mark:
                return
            await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[SqliteSnapshot, None]:
        self._require_open()
        async with reading(self._engine, self._path) as connection:
            await connection.exec_driver_sql("BEGIN")
            yield SqliteSnapshot(connection)

    async def rebuild(self, *, progress: Callable[[int], object] | None = None) -> int:
        count, last = 0, JobId(-(2**63))
        while job_ids := await self._writing.run(RebuildStreams(after=last)):
            count, last = count + len(job_ids), job_ids[-1]
            if progress is not None:
                progress(count)
        await self._writing.run(DropOrphans())
        workflow_id: str | None = ""
        while workflow_id is not None:
            workflow_id = await self._writing.run(RebuildWorkflow(after=workflow_id))
        block = 0
        while await self._writing.run(RebuildBlocks(first=block)):
            block += BLOCKS_AT_ONCE
        return count

    async def insert_with(self, connection: object, jobs: Sequence[NewJob]) -> list[JobRow]:
        self._require_open()
        writing = self._writing
        rows = await insert_jobs(connection, self._path, jobs, self._clock(), self._given)
        # It has to wait for the caller's transaction, so nobody waits for it.
        passing = asyncio.ensure_future(writing.run(PassIds(given=self._given)))
        self._passing.add(passing)
        passing.add_done_callback(self._passing.discard)
        passing.add_done_callback(_say_what_failed)
        return rows

    async def join(self, name: str) -> int:
        node = await self.transact(AddNode(name=name))
        nodes.hold(self._path, node)
        return node

    def leave(self, node: int) -> None:
        nodes.release(self._path, node)

    def is_gone(self, node: int) -> bool:
        return nodes.is_gone(self._path, node)

    @property
    def _audit(self) -> Audit:
        self._require_open()
        return self._open_audit

    @property
    def _reader(self) -> Reader:
        self._require_open()
        return self._open_reader

    def _require_open(self) -> None:
        self._identity.own_process.require()
        if self._is_closed:
            raise RuntimeError(f"{self._path}: expected an open ledger, this one has been closed")
        self._identity.check()

    @property
    def _writing(self) -> Writer:
        if self._writer is None:
            raise RuntimeError(f"{self._path}: expected a ledger that can be written, this one was opened read-only")
        return self._writer


def _say_what_failed(passing: "asyncio.Future[None]") -> None:
    """Nobody else looks at it: this process does not give the ids again all the same."""
    if not passing.cancelled() and (error := passing.exception()) is not None:
        logger.warning("the ids of jobs that were inserted with conn= could not be noted: %s", error)
