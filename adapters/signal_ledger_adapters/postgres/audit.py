"""Audit queries on PostgreSQL, with SQLAlchemy: each reads through an index and returns the core's values."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import asyncpg
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Row,
    Select,
    Text,
    any_,
    cast,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.exc import DBAPIError

from signal_ledger.cursors import cursor_place
from signal_ledger.evolve import fold
from signal_ledger.names import JobId
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, StoredStep, WaitingJob
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.steps import SeenStep, Step
from signal_ledger.stored import StoredEvent
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.postgres.asking import Asked, Asking
from signal_ledger_adapters.postgres.connection import driver_of
from signal_ledger_adapters.postgres.cursors import from_cursor, to_cursor
from signal_ledger_adapters.postgres.pages import (
    Pages,
    Places,
    count_ending_waits,
    ending_waits,
    waits_page,
    wrong_blocks,
)
from signal_ledger_adapters.postgres.rows import to_recorded_job, to_seen_step, to_state, to_step
from signal_ledger_adapters.postgres.schema import quote
from signal_ledger_adapters.postgres.tables import (
    JOB_INSTANTS,
    edges,
    event_columns,
    events,
    jobs,
    outbox,
    repairs,
    steps,
    waits,
)
from signal_ledger_adapters.queries import FEW_WAITS_MAX, branches, first_waits, shows, to_stored_signal, to_waiting_job

_ROWS_AT_ONCE = 500

_JOB_COLUMNS = [
    cast(jobs.c.state, Text).label("state"),
    *(jobs.c[name] for name in ("worker", "queue", "attempt", "max_attempts", "priority", *JOB_INSTANTS)),
    *(
        cast(func.to_jsonb(jobs.c[name]), Text).label(name)
        for name in ("args", "meta", "tags", "errors", "attempted_by")
    ),
]


class Audit:
    """The questions of `signal_ledger.ports.LedgerStore` that only read.

    Args:
        asking: Its connections translate the schema of the tables to the real one.
        schema: The real one.
    """

    def __init__(self, asking: Asking, schema: str) -> None:
        self._asking = asking
        # A subquery, so that it is asked once and the index is used.
        self._horizon = select(literal_column(f"{quote(schema)}.horizon()", BigInteger)).scalar_subquery()
        self._pages = Pages(schema, self._horizon)
        self._places_sql = f"SELECT * FROM {quote(schema)}.places($1, $2)"  # noqa: S608 - quoted

    async def state(self, job_id: JobId) -> WaitState:
        """Return the stored projection of a job; folded from the log if it is missing."""
        query = select(waits).where(waits.c.job_id == job_id)
        async with self._asking.connection() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return fold(job_id, await self.history(job_id)) if row is None else to_state(row)

    async def history(self, job_id: JobId, *, cursor: str | None = None) -> list[RecordedEvent]:
        """Return a stream in the order of its versions, up to and including ``cursor``."""
        query = select(*event_columns).where(events.c.job_id == job_id).order_by(events.c.version)
        if cursor is not None:
            query = query.where(tuple_(events.c.turn, events.c.position) <= tuple_(*from_cursor(cursor)))
        return await self._recorded(query)

    async def job(self, job_id: JobId) -> RecordedJob | None:
        """Return a job's row; None if there is none, or if this role may not read Oban's table."""
        try:
            async with self._asking.connection() as connection:
                row = (await connection.execute(select(*_JOB_COLUMNS).where(jobs.c.id == job_id))).mappings().first()
        except DBAPIError as error:
            if isinstance(error.driver_exception, asyncpg.InsufficientPrivilegeError):
                return None
            raise
        return None if row is None else to_recorded_job(row)

    async def page(self, wanted: EventFilter, limit: int) -> list[RecordedEvent]:
        """Return the first events that match, in the order of the log, as far as it is settled."""
        if wanted.job_id is not None:
            return await self._recorded(self._pages.stream(wanted, limit))
        parts = branches(wanted)
        if parts == []:
            return []
        places = await self._places(wanted)
        if parts is None:
            return await self._recorded(self._pages.log(wanted, places, limit))
        return await self._recorded(self._pages.branches(parts, wanted, places, limit))

    async def _places(self, wanted: EventFilter) -> Places:
        """Find out where in the log a page can be."""
        after = (0, 0) if wanted.after is None else from_cursor(wanted.after)
        if wanted.since is None and wanted.until is None:
            return Places(behind=after)
        async with self._asking.connection() as connection:
            row = await (await driver_of(connection)).fetchrow(self._places_sql, wanted.since, wanted.until)
        behind = (row["behind_turn"], row["behind_position"])
        last = None if row["last_turn"] is None else (row["last_turn"], row["last_position"])
        return Places(behind=max(after, behind), last=last)

    async def end(self) -> str | None:
        """Return the cursor of the newest settled event; None for an empty log."""
        query = (
            select(events.c.turn, events.c.position)
            .where(events.c.turn < self._horizon)
            .order_by(events.c.turn.desc(), events.c.position.desc())
            .limit(1)
        )
        async with self._asking.connection() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else to_cursor(*row)

    async def waiting(
        self, *, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None
    ) -> list[WaitingJob]:
        """Return a page of the jobs that wait, the longest-waiting first."""
        if deadline_before is not None:
            async with self._asking.connection(in_order=True) as connection:
                count = await connection.scalar(count_ending_waits(deadline_before)) or 0
            if count <= FEW_WAITS_MAX:
                few = ending_waits(channel=channel, deadline_before=deadline_before, after=after)
                return first_waits(await self._waiting(few, in_order=True), limit)
        page = waits_page(channel=channel, deadline_before=deadline_before, limit=limit, after=after)
        return await self._waiting(page, in_order=True)

    async def waits_of(self, job_ids: Sequence[JobId]) -> list[WaitingJob]:
        """Return which of these jobs wait, the longest-waiting first."""
        wanted = func.unnest(literal(list(job_ids), ARRAY(BigInteger))).table_valued("job_id").render_derived()
        query = (
            select(waits)
            .join(wanted, waits.c.job_id == wanted.c.job_id)
            .where(waits.c.status.in_(["live", "snoozed"]))
            .order_by(waits.c.since, waits.c.job_id)
        )
        return await self._waiting(query, in_order=False)

    async def outbox(self, *, limit: int, after: str | None) -> list[StoredSignal]:
        """Return a page of the signals that are not relayed, or were refused."""
        query = select(outbox).order_by(outbox.c.place).limit(limit)
        if after is not None:
            query = query.where(outbox.c.place > cursor_place(after))
        async with self._asking.connection() as connection:
            rows = (await connection.execute(query)).all()
        return [to_stored_signal(row) for row in rows]

    async def steps(self, workflow_id: str) -> list[SeenStep]:
        """Return the steps of a workflow, in the order of their jobs."""
        # In one statement, lest an end that comes in between is seen half.
        ended = (
            select(func.array_agg(edges.c.dep).label("deps"), func.array_agg(edges.c.ended_as).label("as"))
            .where(edges.c.workflow_id == steps.c.workflow_id, edges.c.name == steps.c.name)
            .lateral()
        )
        query = (
            select(steps, cast(jobs.c.state, Text).label("job_state"), ended.c.deps, ended.c["as"])
            .outerjoin(jobs, jobs.c.id == steps.c.job_id)
            .join(ended, true())
            # Without the rows of deps that are not there yet.
            .where(steps.c.workflow_id == workflow_id, steps.c.job_id.is_not(None))
        )
        async with self._asking.connection() as connection:
            rows = (await connection.execute(query)).mappings().all()
        # Not by the query: with old statistics the database might read all workflows in that order.
        return [to_seen_step(row) for row in sorted(rows, key=itemgetter("job_id"))]

    async def _waiting(self, query: Select[*tuple[Any, ...]], *, in_order: bool) -> list[WaitingJob]:
        async with self._asking.connection(in_order=in_order) as connection:
            rows = (await connection.execute(query)).all()
        return [to_waiting_job(row) for row in rows]

    async def _recorded(self, query: Select[*tuple[Any, ...]]) -> list[RecordedEvent]:
        async with self._asking.connection(in_order=True) as connection:
            rows = (await connection.execute(query)).all()
        return [
            from_stored(StoredEvent._make(row[2:]), position=row[1], cursor=to_cursor(row[0], row[1])) for row in rows
        ]


class PostgresSnapshot:
    """Everything at one moment; see `signal_ledger.ports.Snapshot`.

    Args:
        asked: A connection inside of a transaction that sees one snapshot.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    async def rows(self, job_ids: Sequence[JobId] | None = None) -> AsyncIterator[tuple[int, StoredEvent]]:
        """Yield position and row of every event, or of those of some jobs, ordered by job and version."""
        query = select(*event_columns).order_by(events.c.job_id, events.c.version)
        if job_ids is not None:
            query = query.where(events.c.job_id == any_(literal(list(job_ids), ARRAY(BigInteger))))
        async for _turn, position, *columns in self._stream(query):
            yield position, StoredEvent._make(columns)

    async def states(self) -> AsyncIterator[tuple[JobId, WaitState | None]]:
        """Yield the stored projections, ordered by job; None for one that cannot be read."""
        async for row in self._stream(select(waits).order_by(waits.c.job_id)):
            yield JobId(row.job_id), _state_or_none(row._asdict())

    async def steps(self) -> AsyncIterator[StoredStep]:
        """Yield the stored steps of workflows, ordered by job."""
        open_edges = (
            select(func.count())
            .select_from(edges)
            .where(edges.c.workflow_id == steps.c.workflow_id, edges.c.name == steps.c.name, edges.c.ended_as.is_(None))
            .scalar_subquery()
            .label("open_edges")
        )
        query = select(steps, open_edges).where(steps.c.job_id.is_not(None)).order_by(steps.c.job_id)
        async for row in self._stream(query):
            yield StoredStep(job_id=JobId(row.job_id), step=_step_or_none(row._asdict()), open_edges=row.open_edges)

    async def wrong_blocks(self) -> AsyncIterator[str]:
        """Yield the cursors of the last events of blocks that do not tell what the log has."""
        async for turn, position, is_wrong in self._stream(wrong_blocks()):
            if is_wrong:
                yield to_cursor(turn, position)

    async def repairs(self) -> list[JobId]:
        """Return the jobs whose streams are known to lack an event."""
        with self._asked.answers():
            rows = await self._asked.connection.execute(select(repairs.c.job_id).order_by(repairs.c.job_id))
        return [JobId(job_id) for [job_id] in rows]

    async def newest_position(self) -> int:
        """Return the position of the event that is last in the order of the log; 0 for an empty log."""
        newest = select(events.c.position).order_by(events.c.turn.desc(), events.c.position.desc()).limit(1)
        with self._asked.answers():
            return await self._asked.connection.scalar(newest) or 0

    async def _stream(self, query: Select[*tuple[Any, ...]]) -> AsyncIterator[Row[*tuple[Any, ...]]]:
        with self._asked.answers():
            result = await self._asked.connection.stream(query.execution_options(yield_per=_ROWS_AT_ONCE))
        async for page in self._asked.each(result.partitions()):
            for row in page:
                yield row


def _step_or_none(row: Any) -> Step | None:  # noqa: ANN401 - a row as SQLAlchemy maps it
    try:
        return to_step(row)
    except (ValueError, TypeError):
        return None


def _state_or_none(row: Any) -> WaitState | None:  # noqa: ANN401 - a row as SQLAlchemy maps it
    try:
        state = to_state(row)
    except (ValueError, TypeError, KeyError, RuntimeError):
        return None
    return state if shows(state, row["ordinal"], row["since"], row["deadline_at"]) else None
