"""What the audit queries of both databases have in common: their tables have columns of the same names."""

from typing import Any

from sqlalchemy import Row, Select, Table

from signal_ledger.cursors import place_cursor, wait_cursor
from signal_ledger.names import JobId, SignalId, public_channel
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, WaitingJob
from signal_ledger.wait_state import Status


def filtered(query: Select[*tuple[Any, ...]], events: Table, wanted: EventFilter) -> Select[*tuple[Any, ...]]:
    """Add what is asked of events, but for the place that they come after."""
    columns = events.c
    if wanted.job_id is not None:
        query = query.where(columns.job_id == wanted.job_id)
    if wanted.kinds is not None:
        query = query.where(columns.kind.in_(sorted(wanted.kinds)))
    if wanted.since is not None:
        query = query.where(columns.recorded_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(columns.recorded_at < wanted.until)
    if wanted.source is not None:
        query = query.where(columns.source == wanted.source)
    if wanted.channel is not None:
        query = query.where(columns.channel == wanted.channel)
    return query


def to_waiting_job(row: Row[Any]) -> WaitingJob:
    """Read a row of the projection."""
    return WaitingJob(
        job_id=JobId(row.job_id),
        run=row.run,
        status=Status(row.status),
        channel=public_channel(row.current),
        ordinal=row.ordinal,
        since=row.since,
        deadline_at=row.deadline_at,
        cursor=wait_cursor(row.since, JobId(row.job_id)),
    )


def to_stored_signal(row: Row[Any]) -> StoredSignal:
    """Read a row of the outbox."""
    return StoredSignal(
        signal_id=SignalId(row.signal_id),
        job_id=JobId(row.job_id),
        channel=public_channel(row.channel),
        key=row.key,
        source=row.source,
        stored_at=row.stored_at,
        refusal=row.refusal,
        cursor=place_cursor(row.place),
    )
