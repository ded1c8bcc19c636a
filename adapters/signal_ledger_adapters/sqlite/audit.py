"""Audit queries on SQLite, with SQLAlchemy: each reads through an index and returns the core's values."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Select, Text, func, select, text, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from signal_ledger.cursors import cursor_place, cursor_position, position_cursor
from signal_ledger.errors import SchemaError
from signal_ledger.evolve import fold
from signal_ledger.instants import from_text, to_text
from signal_ledger.names import JobId
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, StoredStep, UnreadableEvent, WaitingJob
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.steps import Step
from signal_ledger.stored import StoredEvent
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.queries import (
    FEW_WAITS_MAX,
    Branch,
    Deliveries,
    branches,
    first_waits,
    shows,
    to_stored_signal,
    to_waiting_job,
)
from signal_ledger_adapters.sqlite.connection import reading
from signal_ledger_adapters.sqlite.pages import (
    BLOCK,
    Places,
    branches_page,
    count_ending_waits,
    ending_waits,
    log_page,
    stream_page,
    waits_page,
)
from signal_ledger_adapters.sqlite.rows import STEP_COLUMNS, to_json, to_state, to_step, to_stored_event
from signal_ledger_adapters.sqlite.statements import statement
from signal_ledger_adapters.sqlite.tables import (
    Instant,
    edges,
    event_columns,
    events,
    outbox,
    repairs,
    state_columns,
    steps,
    waits,
)

_ROWS_AT_ONCE = 500

# What a row that somebody has damaged leads to.
_UNREADABLE = (ValueError, TypeError, KeyError)


class Audit:
    """The questions of `signal_ledger.ports.LedgerStore` that only read.

    Args:
        engine: Reads the file.
        path: The file, for messages.
    """

    def __init__(self, engine: AsyncEngine, path: Path) -> None:
        self._engine = engine
        self._path = path

    async def state(self, job_id: JobId) -> WaitState:
        """Return the stored projection of a job; folded from the log if it is missing, or cannot be read."""
        query = select(*state_columns).where(waits.c.job_id == job_id)
        async with reading(self._engine, self._path) as connection:
            row = (await connection.execute(query)).one_or_none()
        # As one that is missing is: whoever writes next folds it anew, too.
        with suppress(*_UNREADABLE):
            if row is not None:
                return to_state(job_id, row)
        return fold(job_id, await self.history(job_id))

    async def history(self, job_id: JobId, *, cursor: str | None = None) -> list[RecordedEvent]:
        """Return a stream in the order of its versions, up to and including ``cursor``."""
        query = select(*event_columns).where(events.c.job_id == job_id).order_by(events.c.version)
        if cursor is not None:
            query = query.where(events.c.position <= cursor_position(cursor))
        return await self._recorded(query)

    async def page(self, wanted: EventFilter, limit: int) -> list[RecordedEvent]:
        """Return the first events that match, in the order of the log."""
        if wanted.job_id is not None:
            return await self._recorded(stream_page(wanted, limit))
        parts = branches(wanted)
        if parts is None:
            return await self._recorded(log_page(wanted, await self._places(wanted, ()), limit))
        if not parts:
            return []
        return await self._recorded(branches_page(parts, wanted, await self._places(wanted, parts), limit))

    async def _places(self, wanted: EventFilter, parts: Sequence[Branch]) -> Places:
        """Find out where in the log a page can be."""
        after = 0 if wanted.after is None else cursor_position(wanted.after)
        if wanted.since is None and wanted.until is None and not any(isinstance(part, Deliveries) for part in parts):
            return Places(behind=after)
        times = [None if instant is None else to_text(instant) for instant in (wanted.since, wanted.until)]
        async with reading(self._engine, self._path) as connection:
            row = (await connection.exec_driver_sql(statement("places"), tuple(times))).one()
        return Places(behind=max(after, row.behind), last=row.last, told=row.told)

    async def end(self) -> str | None:
        """Return the cursor of the newest event; None for an empty log."""
        query = select(events.c.position).order_by(events.c.position.desc()).limit(1)
        async with reading(self._engine, self._path) as connection:
            position = await connection.scalar(query)
        return None if position is None else position_cursor(position)

    async def newest_at(self) -> datetime | None:
        """Return when the newest event was recorded."""
        query = select(events.c.recorded_at).order_by(events.c.position.desc()).limit(1)
        async with reading(self._engine, self._path) as connection:
            newest: datetime | None = await connection.scalar(query)
        return newest

    async def waiting(
        self, *, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None
    ) -> list[WaitingJob]:
        """Return a page of the jobs that wait, the longest-waiting first."""
        if deadline_before is not None:
            async with reading(self._engine, self._path) as connection:
                count = await connection.scalar(count_ending_waits(deadline_before)) or 0
            if count <= FEW_WAITS_MAX:
                few = ending_waits(channel=channel, deadline_before=deadline_before, after=after)
                return first_waits(await self._waiting(few), limit)
        return await self._waiting(
            waits_page(channel=channel, deadline_before=deadline_before, limit=limit, after=after)
        )

    async def waits_of(self, job_ids: Sequence[JobId]) -> list[WaitingJob]:
        """Return which of these jobs wait, the longest-waiting first."""
        wanted = func.json_each(to_json(job_ids)).table_valued("value")
        query = (
            select(waits)
            .where(waits.c.job_id.in_(select(wanted.c.value)), waits.c.status.in_(["live", "snoozed"]))
            .order_by(waits.c.since, waits.c.job_id)
        )
        return await self._waiting(query)

    async def outbox(self, *, limit: int, after: str | None) -> list[StoredSignal]:
        """Return a page of the signals that are not relayed, or were refused."""
        query = select(outbox).order_by(outbox.c.place).limit(limit)
        if after is not None:
            query = query.where(outbox.c.place > cursor_place(after))
        async with reading(self._engine, self._path) as connection:
            rows = (await connection.execute(query)).all()
        return [to_stored_signal(row) for row in rows]

    async def _waiting(self, query: Select[*tuple[Any, ...]]) -> list[WaitingJob]:
        async with self._readable("a stored wait state", "rebuild() folds all anew"):
            async with reading(self._engine, self._path) as connection:
                rows = (await connection.execute(query)).all()
            return [to_waiting_job(row) for row in rows]

    async def _recorded(self, query: Select[*tuple[Any, ...]]) -> list[RecordedEvent]:
        async with self._readable("an event", "verify() tells which"):
            async with reading(self._engine, self._path) as connection:
                rows = (await connection.execute(query)).all()
            return [
                from_stored(StoredEvent._make(row[1:]), position=row[0], cursor=position_cursor(row[0])) for row in rows
            ]

    @asynccontextmanager
    async def _readable(self, what: str, advice: str) -> AsyncGenerator[None, None]:
        """Say that a row was damaged: what it stumbles over is no error of the caller's."""
        try:
            yield
        except _UNREADABLE as error:
            raise SchemaError(f"{self._path}: {what} is damaged and cannot be read; {advice}") from error


class SqliteSnapshot:
    """The whole file at one moment; see `signal_ledger.ports.Snapshot`.

    Args:
        connection: Inside of a read transaction.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(
        self, job_ids: Sequence[JobId] | None = None
    ) -> AsyncIterator[tuple[int, StoredEvent | UnreadableEvent]]:
        """Yield position and row of every event, or of those of some jobs, ordered by job and version."""
        as_stored: list[Any] = [
            type_coerce(column, Text) if isinstance(column.type, Instant) else column for column in event_columns
        ]
        query = select(*as_stored).order_by(events.c.job_id, events.c.version)
        if job_ids is not None:
            query = query.where(events.c.job_id.in_(job_ids))
        driver: Any = (await self._connection.get_raw_connection()).driver_connection
        # Text that is none was never written by this library: its checksum does not fit what is read instead.
        driver.text_factory = _read_text
        try:
            async with self._connection.stream(query.execution_options(yield_per=_ROWS_AT_ONCE)) as rows:
                async for position, *columns in rows:
                    yield position, _to_stored(columns)
        finally:
            # Of a query that was cancelled the connection is closed already.
            with suppress(ValueError):
                driver.text_factory = str

    async def states(self) -> AsyncIterator[tuple[JobId, WaitState | None]]:
        """Yield the stored projections, ordered by job; None for one that cannot be read."""
        # As they are stored: what is no instant is a finding, and no error.
        shown = [type_coerce(column, Text) for column in (waits.c.since, waits.c.deadline_at)]
        query = select(waits.c.job_id, waits.c.ordinal, *shown, *state_columns).order_by(waits.c.job_id)
        async with self._connection.stream(query.execution_options(yield_per=_ROWS_AT_ONCE)) as rows:
            async for job_id, ordinal, since, deadline_at, *columns in rows:
                yield JobId(job_id), _state_or_none(JobId(job_id), columns, (ordinal, since, deadline_at))

    async def steps(self) -> AsyncIterator[StoredStep]:
        """Yield the stored steps of workflows, ordered by job."""
        open_edges = (
            select(func.count())
            .select_from(edges)
            .where(edges.c.workflow_id == steps.c.workflow_id, edges.c.name == steps.c.name, edges.c.ended_as.is_(None))
            .scalar_subquery()
        )
        query = select(*(steps.c[name] for name in STEP_COLUMNS), open_edges).order_by(steps.c.job_id)
        async with self._connection.stream(query.execution_options(yield_per=_ROWS_AT_ONCE)) as rows:
            async for *columns, count in rows:
                yield StoredStep(job_id=JobId(columns[0]), step=_step_or_none(columns), open_edges=count)

    async def wrong_blocks(self) -> AsyncIterator[str]:
        """Yield the cursors of the last events of blocks that do not tell what the log has."""
        query = text(statement("blocks_wrong")).execution_options(yield_per=_ROWS_AT_ONCE)
        async with self._connection.stream(query) as rows:
            async for block, is_wrong in rows:
                if is_wrong:
                    yield position_cursor(BLOCK * (block + 1))

    async def repairs(self) -> list[JobId]:
        """Return the jobs whose streams are known to lack an event."""
        rows = await self._connection.execute(select(repairs.c.job_id).order_by(repairs.c.job_id))
        return [JobId(job_id) for [job_id] in rows]

    async def newest_position(self) -> int:
        """Return the position of the newest event; 0 for an empty log."""
        return await self._connection.scalar(select(func.max(events.c.position))) or 0


def _read_text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _to_stored(columns: Sequence[Any]) -> StoredEvent | UnreadableEvent:
    try:
        return to_stored_event(columns)
    except ValueError as error:
        return UnreadableEvent(job_id=columns[0], version=columns[1], reason=str(error))


def _step_or_none(columns: Sequence[Any]) -> Step | None:
    try:
        return to_step(columns)
    except (ValueError, TypeError):
        return None


def _state_or_none(
    job_id: JobId, columns: list[Any], shown: tuple[int | None, str | None, str | None]
) -> WaitState | None:
    ordinal, *instants = shown
    try:
        state = to_state(job_id, columns)
        since, deadline_at = [None if text is None else from_text(text) for text in instants]
    except (ValueError, TypeError, KeyError, RuntimeError):
        return None
    return state if shows(state, ordinal, since, deadline_at) else None
