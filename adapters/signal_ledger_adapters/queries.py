"""What the audit queries of both databases have in common: their tables have columns of the same names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row

from signal_ledger.cursors import place_cursor, wait_cursor
from signal_ledger.events import KIND_OF, Kind
from signal_ledger.names import DEFAULT_CHANNEL, JobId, SignalId, public_channel
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, WaitingJob
from signal_ledger.wait_state import Status, WaitState

FEW_WAITS_MAX = 1000
"""Waits that end before an instant are sorted if they are so few; else enough of them are met among all."""

_WITH_CHANNEL = frozenset(
    kind for event, kind in KIND_OF.items() if "channel" in {field.name for field in fields(event)}
)


@dataclass(frozen=True, slots=True)
class OfKind:
    """The events of a kind other than delivered: an index has them in the log's order."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class OnChannel:
    """The events of a kind on a channel, but deliveries on the default one: an index has them in the log's order."""

    channel: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class FromSource:
    """The deliveries of a source: an index has them in the log's order."""

    source: str


@dataclass(frozen=True, slots=True)
class Deliveries:
    """All deliveries, or all on the default channel: found in the log itself, past the blocks that have none."""

    unnamed: bool


type Branch = OfKind | OnChannel | FromSource | Deliveries
"""Events that can be read in the log's order without meeting others."""


def branches(wanted: EventFilter) -> list[Branch] | None:
    """Return parts of the log that hold together all that is asked for; None for the log itself.

    A job is not looked at: it has its stream. Of the other filters `left_over` are those that the parts do not see to.
    """
    kinds = frozenset(Kind) if wanted.kinds is None else wanted.kinds
    if wanted.source is not None:
        return [FromSource(wanted.source)] if Kind.DELIVERED in kinds else []
    if wanted.channel is not None:
        return [_on_channel(wanted.channel, kind) for kind in sorted(kinds & _WITH_CHANNEL)]
    if wanted.kinds is not None:
        return [Deliveries(unnamed=False) if kind is Kind.DELIVERED else OfKind(kind) for kind in sorted(kinds)]
    return None


def _on_channel(channel: str, kind: Kind) -> Branch:
    if channel == DEFAULT_CHANNEL and kind is Kind.DELIVERED:
        return Deliveries(unnamed=True)
    return OnChannel(channel, kind)


def left_over(
    columns: Mapping[str, ColumnElement[Any]], branch: Branch | None, wanted: EventFilter
) -> list[ColumnElement[bool]]:
    """Return what is still to be asked of each event of a branch, or of the log itself: its time, mostly."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(columns["recorded_at"] >= wanted.since)
    if wanted.until is not None:
        conditions.append(columns["recorded_at"] < wanted.until)
    if isinstance(branch, FromSource) and wanted.channel is not None:
        conditions.append(columns["channel"] == wanted.channel)
    return conditions


def of_any(columns: Mapping[str, ColumnElement[Any]], wanted: EventFilter) -> list[ColumnElement[bool]]:
    """Return all that is asked of an event, but for its job and the place that it comes after."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.kinds is not None:
        conditions.append(columns["kind"].in_(sorted(wanted.kinds)))
    if wanted.source is not None:
        conditions.append(columns["source"] == wanted.source)
    if wanted.channel is not None:
        conditions.append(columns["channel"] == wanted.channel)
    return [*conditions, *left_over(columns, None, wanted)]


def first_waits(rows: Sequence[WaitingJob], limit: int) -> list[WaitingJob]:
    """Return the longest-waiting of some waits."""
    return sorted(rows, key=_age)[:limit]


def _age(row: WaitingJob) -> tuple[datetime, JobId]:
    return row.since, row.job_id


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


def shows(state: WaitState, ordinal: int | None, since: datetime | None, deadline_at: datetime | None) -> bool:
    """Say whether the columns that who-waits is answered by are those of the wait that a stored state speaks of."""
    wait = state.wait
    return (ordinal, since, deadline_at) == (
        (None, None, None) if wait is None else (wait.ordinal, wait.since, wait.deadline_at)
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
