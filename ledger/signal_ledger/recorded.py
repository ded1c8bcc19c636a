"""Recorded events: what the audit queries return."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

from signal_ledger.causes import Cause
from signal_ledger.codec import decode
from signal_ledger.constructors import constructor, constructor_by_place
from signal_ledger.errors import PayloadError
from signal_ledger.events import KIND_OF, Delivered, DeliveryOutcome, Event, Kind
from signal_ledger.names import Execution, JobId, SignalId, public_channel
from signal_ledger.plan import Plan
from signal_ledger.stored import StoredEvent, to_stored
from signal_ledger.upcast import upcast


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """An event as the log holds it: the fact, and where and when it was recorded.

    Every column can be read as an attribute; one that the kind does not have is None.

    Args:
        position: Its place in the whole log. On PostgreSQL positions may have gaps and are not commit order.
        cursor: An opaque bookmark; pass it as ``after=`` to continue behind this event, or as ``cursor=``.
        job_id: Its stream.
        version: Its place in the stream, from 1, without gaps.
        recorded_at: When, as an aware UTC datetime.
        schema_version: The version of its columns when it was written.
        checksum: Lower-case hex SHA-256 over its columns.
        event: The fact itself, one of `signal_ledger.events`.
    """

    position: int
    cursor: str
    job_id: JobId
    version: int
    recorded_at: datetime
    schema_version: int
    checksum: str
    event: Event

    @property
    def kind(self) -> Kind:
        """Which event it is."""
        return KIND_OF[type(self.event)]

    @property
    def run(self) -> int:
        """The run it belongs to."""
        return self.event.run

    @property
    def execution(self) -> Execution | None:
        """The execution that did it, or the job's last one for ``closed``."""
        return getattr(self.event, "execution", None)

    @property
    def attempt(self) -> int | None:
        """The job's attempt at the time."""
        return getattr(self.event, "attempt", None)

    @property
    def channel(self) -> str | None:
        """The channel; None is the default channel, and also what ``closed`` has."""
        return public_channel(getattr(self.event, "channel", None))

    @property
    def ordinal(self) -> int | None:
        """Which await on the channel within the run."""
        return getattr(self.event, "ordinal", None)

    @property
    def signal_id(self) -> SignalId | None:
        """The delivery that was made or consumed."""
        return getattr(self.event, "signal_id", None)

    @property
    def delivery_version(self) -> int | None:
        """The version of the delivery that was consumed."""
        return getattr(self.event, "delivery_version", None)

    @property
    def payload(self) -> Any:  # noqa: ANN401 - whatever was sent, as with json.loads
        """The decoded payload of a delivery; None for other kinds.

        Raises:
            PayloadError: The stored bytes are damaged or were erased.
        """
        if not isinstance(self.event, Delivered):
            return None
        if self.event.payload is None:
            raise PayloadError(f"job {self.job_id}: the payload of event {self.version} was erased")
        return decode(self.event.payload)

    @property
    def key(self) -> str | None:
        """The caller's idempotency key, if one was given."""
        return getattr(self.event, "key", None)

    @property
    def source(self) -> str | None:
        """Who or what signalled."""
        return getattr(self.event, "source", None)

    @property
    def deadline_at(self) -> datetime | None:
        """The wait's deadline."""
        return getattr(self.event, "deadline_at", None)

    @property
    def cause(self) -> Cause | None:
        """Why the run ended."""
        return getattr(self.event, "cause", None)

    @property
    def outcome(self) -> DeliveryOutcome | None:
        """What the delivery did at once."""
        return getattr(self.event, "outcome", None)

    @property
    def plan(self) -> Plan | None:
        """The step of a workflow that the job is, of ``planned``."""
        return getattr(self.event, "plan", None)

    @property
    def dep(self) -> str | None:
        """The dep because of which a step was released or cancelled, or whose end it ignored."""
        return getattr(self.event, "dep", None)


new_recorded_event = constructor(RecordedEvent)


def from_stored(row: StoredEvent, *, position: int, cursor: str) -> RecordedEvent:
    """Read a row of the log, upcast to today's columns.

    Raises:
        NewerEventError: It was written by a newer version of the library.
    """
    known = upcast(row)
    return new_recorded_event(
        position=position,
        cursor=cursor,
        job_id=JobId(row.job_id),
        version=row.version,
        recorded_at=row.recorded_at,
        schema_version=row.schema_version,
        checksum=row.checksum,
        event=_READERS[known.kind](known),
    )


def to_row(recorded: RecordedEvent) -> StoredEvent:
    """Lay a recorded event out in columns again, as the row that it was read from.

    Whoever adds a step to `signal_ledger.upcast` that changes what a column holds must take it back here.

    Raises:
        ValueError: The row is damaged: it lacks a column that its kind has.
    """
    try:
        row = to_stored(
            recorded.event, job_id=recorded.job_id, version=recorded.version, recorded_at=recorded.recorded_at
        )
    except (AttributeError, TypeError):
        raise ValueError(
            f"job {recorded.job_id}: event {recorded.version} ({recorded.kind}) lacks a column; verify() tells which"
        ) from None
    return row._replace(schema_version=recorded.schema_version, checksum=recorded.checksum)


def _reader(event_class: type[Event]) -> Callable[[StoredEvent], Event]:
    """Return what makes an event of a class from its columns."""
    names = [field.name for field in fields(event_class)]
    columns_of = itemgetter(*map(StoredEvent._fields.index, names))
    new: Callable[..., Event] = constructor_by_place(event_class)
    for place, name in enumerate(names):
        if name in _VALUES:
            return _reader_with(_VALUES[name], place, columns_of, new)
    return lambda row: new(*columns_of(row))


def _reader_with(
    value_of: Callable[[str], object],
    place: int,
    columns_of: Callable[[StoredEvent], tuple[object, ...]],
    new: Callable[..., Event],
) -> Callable[[StoredEvent], Event]:
    def read(row: StoredEvent) -> Event:
        columns: list[Any] = list(columns_of(row))
        # One that is missing is told by `verify`.
        if (stored := columns[place]) is not None:
            columns[place] = value_of(stored)
        return new(*columns)

    return read


# What is no plain column. No kind has two of them.
_VALUES: dict[str, Callable[[str], object]] = {
    "outcome": lru_cache(maxsize=8)(DeliveryOutcome),
    "cause": lru_cache(maxsize=8)(Cause),
    "plan": Plan.from_text,
}


_READERS = {kind.value: _reader(event_class) for event_class, kind in KIND_OF.items()}
