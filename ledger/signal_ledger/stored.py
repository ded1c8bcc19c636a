"""An event as columns, the form in which stores keep it, and the checksum over them (promise L7)."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from signal_ledger.events import KIND_OF, Delivered, Event, Kind
from signal_ledger.instants import to_microseconds
from signal_ledger.names import JobId

SCHEMA_VERSION = 2
"""The newest version of events that this library can read (promise L8)."""

WRITTEN: dict[str, int] = {
    kind: 2 if kind in (Kind.PLANNED, Kind.RELEASED, Kind.SKIPPED, Kind.CASCADED) else 1 for kind in Kind
}
"""The version that each kind is written in: that of its last change."""


class StoredEvent(NamedTuple):
    """One row of the log. Columns that a kind does not have are None.

    Args:
        job_id: The stream.
        version: The place in the stream, from 1.
        run: See `signal_ledger.events`, as for every column below that is not explained here.
        kind: Which event, by its stored name.
        schema_version: The version of the events' columns at the time of writing.
        recorded_at: When the store recorded it; never runs backwards within a stream.
        checksum: Lower-case hex SHA-256 of `byte_form`.
    """

    job_id: int
    version: int
    run: int
    kind: str
    schema_version: int
    recorded_at: datetime
    execution: int | None
    attempt: int | None
    channel: str | None
    ordinal: int | None
    signal_id: str | None
    delivery_version: int | None
    key: str | None
    source: str | None
    deadline_at: datetime | None
    cause: str | None
    outcome: str | None
    payload: bytes | None
    payload_digest: str | None
    dep: str | None
    plan: str | None
    checksum: str


_SCHEMA_VERSION, _RECORDED_AT, _DEADLINE_AT, _PAYLOAD, _DEP, _CHECKSUM = map(
    StoredEvent._fields.index, ("schema_version", "recorded_at", "deadline_at", "payload", "dep", "checksum")
)
_SINCE_2 = slice(_DEP, _CHECKSUM)

_WRITTEN_AS = {"cause": "cause.value", "outcome": "outcome.value", "plan": "plan.text"}
_COMMON = ("job_id", "version", "run", "kind", "schema_version", "recorded_at")


def _layout(
    event_class: type[Event],
) -> tuple[Callable[[Event], tuple[object, ...]], Callable[..., tuple[object, ...]]]:
    """Return what reads the columns of a class of events, and what puts None and those into their order."""
    # With run, which is in all classes: of one column alone, attrgetter does not make a tuple.
    own = ["run", *(name for name in StoredEvent._fields if name in event_class.__slots__ and name not in _COMMON)]
    given = [None, *_COMMON, *own]
    order = [given.index(name) if name in given else 0 for name in StoredEvent._fields[:-1]]
    return attrgetter(*[_WRITTEN_AS.get(name, name) for name in own]), itemgetter(*order)


_LAYOUTS = {event_class: (kind.value, *_layout(event_class)) for event_class, kind in KIND_OF.items()}


def to_stored(event: Event, *, job_id: JobId, version: int, recorded_at: datetime) -> StoredEvent:
    """Lay an event out in columns and put its checksum on it."""
    if isinstance(event, Delivered):
        return _to_stored_delivery(event, job_id, version, recorded_at)
    return _to_stored(event, job_id, version, recorded_at)


def _to_stored(event: Event, job_id: JobId, version: int, recorded_at: datetime) -> StoredEvent:
    kind, own_columns, in_order = _LAYOUTS[type(event)]
    columns = in_order((None, job_id, version, event.run, kind, WRITTEN[kind], recorded_at, *own_columns(event)))
    return StoredEvent._make((*columns, checksum(columns)))


class _Sizes(dict[int, str]):
    """How netstrings of some sizes begin."""

    def __missing__(self, size: int) -> str:
        return f"{size}:"


_SIZES = _Sizes({size: f"{size}:" for size in range(256)})
_DELIVERED = Kind.DELIVERED.value
_DELIVERED_VERSION = WRITTEN[Kind.DELIVERED]
_DELIVERED_NOW = f"{len(_DELIVERED)}:{_DELIVERED},{len(str(_DELIVERED_VERSION))}:{_DELIVERED_VERSION}"


def _to_stored_delivery(event: Delivered, job_id: JobId, version: int, recorded_at: datetime) -> StoredEvent:
    """Every signal comes this way: what the layout and `byte_form` would do column by column, done at once."""
    run, channel, signal_id, digest = event.run, event.channel, event.signal_id, event.payload_digest
    key, source, outcome = event.key, event.source, event.outcome._value_
    sizes = _SIZES
    job_text, version_text, run_text = str(job_id), str(version), str(run)
    at_text = str(to_microseconds(recorded_at))
    text = (
        f"{sizes[len(job_text)]}{job_text},{sizes[len(version_text)]}{version_text},{sizes[len(run_text)]}{run_text},"
        f"{_DELIVERED_NOW},{sizes[len(at_text)]}{at_text},-,-,{sizes[len(channel)]}{channel},-,"
        f"{sizes[len(signal_id)]}{signal_id},-,{'-,' if key is None else f'{sizes[len(key)]}{key},'}"
        f"{'-,' if source is None else f'{sizes[len(source)]}{source},'}-,-,{sizes[len(outcome)]}{outcome},"
        f"{sizes[len(digest)]}{digest},"
    )
    if not text.isascii():
        # A netstring counts bytes, of which such a character has several.
        return _to_stored(event, job_id, version, recorded_at)
    return tuple.__new__(
        StoredEvent,
        (
            job_id,
            version,
            run,
            _DELIVERED,
            _DELIVERED_VERSION,
            recorded_at,
            None,
            None,
            channel,
            None,
            signal_id,
            None,
            key,
            source,
            None,
            None,
            outcome,
            event.payload,
            digest,
            None,
            None,
            hashlib.sha256(text.encode()).hexdigest(),
        ),
    )


def checksum(row: Sequence[Any]) -> str:
    """Return the lower-case hex SHA-256 of a row's byte form."""
    return hashlib.sha256(byte_form(row)).hexdigest()


def byte_form(row: Sequence[Any]) -> bytes:
    """Write a row, a `StoredEvent` with or without its checksum, as the bytes that the checksum is taken over.

    Each column from ``job_id`` to ``outcome``, then ``payload_digest`` (the payload itself is left out, so that it
    can be erased without breaking the checksum), and from schema version 2 on ``dep`` and ``plan``, in the order of
    `StoredEvent`: a netstring of its text, as in
    D. J. Bernstein's "Netstrings" (1997), or ``-,`` for None. Integers are decimal, instants are microseconds since
    the epoch, text is UTF-8.

    >>> from datetime import UTC
    >>> row = StoredEvent(7, 2, 1, "closed", 1, datetime(2026, 11, 23, tzinfo=UTC), 3, 1, *[None] * 7, "completed",
    ...                   *[None] * 5, "")
    >>> byte_form(row).decode()
    '1:7,1:2,1:1,6:closed,1:1,16:1795392000000000,1:3,1:1,-,-,-,-,-,-,-,9:completed,-,-,'
    """
    columns = list(row[:_CHECKSUM])
    for index in (_RECORDED_AT, _DEADLINE_AT):
        if columns[index] is not None:
            columns[index] = to_microseconds(columns[index])
    if columns[_SCHEMA_VERSION] == 1 and columns[_SINCE_2] == [None, None]:
        del columns[_SINCE_2]
    del columns[_PAYLOAD]
    text = "".join(["-," if column is None else f"{len(part := str(column))}:{part}," for column in columns])
    if text.isascii():
        return text.encode()
    return b"".join([_netstring(column) for column in columns])


def _netstring(column: object) -> bytes:
    if column is None:
        return b"-,"
    part = str(column).encode()
    return b"%d:%b," % (len(part), part)
