"""A history as lines of JSON: a header, then one event a line. The form is described in docs/reference/log.md.

Lines are plain ASCII, so that no editor, mail or shell on their way can change what they say. Columns that are null
are left out. Whatever is read is checked to the last column: what does not fit is refused, and never shown.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, get_args, get_type_hints

from signal_ledger import strict_json
from signal_ledger.errors import SchemaError
from signal_ledger.instants import from_text, to_text
from signal_ledger.jobs import JobState
from signal_ledger.names import JobId
from signal_ledger.recorded import RecordedEvent, from_stored, to_row
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.stored import SCHEMA_VERSION, StoredEvent, checksum
from signal_ledger.upcast import NewerEventError
from signal_ledger.verify_stream import check_payload, require_columns

FORMAT = "signal-ledger history"
VERSION = 1
"""The version of the form. The columns of events have a version of their own in each line."""

_HEADER = ("format", "version", "job_id", "job")
_PLACE = ("position", "cursor")


def header_line(job_id: JobId, job: RecordedJob | None) -> str:
    """Write the first line."""
    row = None if job is None else {field.name: _plain(getattr(job, field.name)) for field in fields(job)}
    return _write({"format": FORMAT, "version": VERSION, "job_id": job_id, "job": row})


def event_line(recorded: RecordedEvent) -> str:
    """Write the line of an event.

    Raises:
        ValueError: Its row is damaged.
    """
    columns = {name: _plain(value) for name, value in to_row(recorded)._asdict().items() if value is not None}
    return _write({"position": recorded.position, "cursor": recorded.cursor, **columns})


def read_header(line: str) -> tuple[JobId, RecordedJob | None]:
    """Read the first line.

    Raises:
        ValueError: It is none; the message says what was expected.
        SchemaError: It was written by a newer version of this library.
    """
    found = _read(line, "a header")
    if found.get("format") != FORMAT:
        raise ValueError(f"expected a header with format {FORMAT!r}, got something else; is it a saved history?")
    version = _value(found, "version", int)
    if version > VERSION:
        raise SchemaError(f"the form has version {version}, newer than this library reads; upgrade signal-ledger")
    if version != VERSION:
        raise ValueError(f"version: expected {VERSION}, got {version}")
    _require_known(found, _HEADER)
    job = _value(found, "job", dict, type(None))
    return JobId(_value(found, "job_id", int)), None if job is None else _job(job)


def read_event(line: str, *, job_id: JobId, version: int) -> RecordedEvent:
    """Read the line of an event.

    Args:
        line: The line.
        job_id: The job that it is to be of.
        version: The version that it is to have.

    Raises:
        ValueError: It is damaged, or another event; the message says what was expected.
        SchemaError: It was written by a newer version of this library.
    """
    found = _read(line, "an event")
    schema_version = _value(found, "schema_version", int)
    if schema_version > SCHEMA_VERSION:
        # Asked first: it may have fields that are not known here, and another byte form.
        raise SchemaError(
            f"the event has schema version {schema_version}, newer than this library reads; upgrade signal-ledger"
        )
    _require_known(found, (*_PLACE, *StoredEvent._fields))
    position, cursor = _value(found, "position", int), _value(found, "cursor", str)
    row = StoredEvent(**{name: _column(found, name) for name in StoredEvent._fields})
    if row.job_id != job_id:
        raise ValueError(f"job_id: expected {job_id}, as the header has it, got {row.job_id}")
    if row.version != version:
        raise ValueError(f"version: expected {version}, since versions count from 1 without gaps, got {row.version}")
    if (actual := _checksum(row)) != row.checksum:
        raise ValueError(f"checksum: expected {actual}, that of the other columns, got another one (promise L7)")
    for wrong in check_payload(row):
        # One that does not decode may have been stored so: its await raises PayloadError, as it did then.
        if wrong.rule == "L7 payload":
            raise ValueError(
                "payload: expected bytes with the digest in payload_digest, got others (promise L7); "
                "without its payload the event counts as erased"
            )
    return _recorded(row, position, cursor)


def _checksum(row: StoredEvent) -> str:
    try:
        return checksum(row)
    except UnicodeEncodeError:
        raise ValueError("expected text that UTF-8 can encode, got a lone surrogate") from None


def _recorded(row: StoredEvent, position: int, cursor: str) -> RecordedEvent:
    try:
        recorded = from_stored(row, position=position, cursor=cursor)
        require_columns(recorded.event)
        if to_row(recorded) == row:
            return recorded
    except NewerEventError as error:
        raise SchemaError(str(error)) from None
    except ValueError:
        # A cause, an outcome or a plan that is none.
        pass
    raise ValueError(f"expected the columns of a {row.kind} event, all and no others, as this library writes them")


def _write(line: Mapping[str, object]) -> str:
    return json.dumps(line, separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> object:
    match value:
        case bytes():
            return b64encode(value).decode()
        case datetime():
            return to_text(value)
        case _:
            return value


def _read(line: str, what: str) -> dict[str, Any]:
    try:
        found = strict_json.loads(line)
    except (ValueError, RecursionError):
        # The parser's own message tells where, but a line that was cut is best told as what it is.
        raise ValueError(
            f"expected {what} as one object of JSON, got something else; was the line cut, or is a name there twice?"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"expected {what} as one object of JSON, got {_type(found)}")  # noqa: TRY004 - bad content
    return found


def _require_known(found: Mapping[str, object], known: tuple[str, ...]) -> None:
    if not set(known).issuperset(found):
        raise ValueError(f"expected no other fields than {', '.join(known)}")


def _value(found: Mapping[str, Any], name: str, *types: type) -> Any:  # noqa: ANN401 - of one of the types
    """Return a field, or None if it is not there and may be null."""
    value = found.get(name)
    # By its very type: True is an int to isinstance.
    if type(value) not in types:
        expected = " or ".join(_JSON_NAMES[each] for each in types)
        raise ValueError(f"{name}: expected {expected}, got {_type(value) if name in found else 'nothing'}")
    return value


_JSON_NAMES: dict[type, str] = {
    int: "an integer",
    str: "text",
    dict: "an object",
    list: "an array",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _type(value: object) -> str:
    return _JSON_NAMES[type(value)]


def _types(hint: Any) -> tuple[type, ...]:  # noqa: ANN401 - an annotation
    """Return what JSON has for a type."""
    types: tuple[type, ...] = get_args(hint) or (hint,)
    return tuple([str if issubclass(each, bytes | datetime) else each for each in types])


_HINTS = get_type_hints(StoredEvent)
_COLUMN_TYPES = {name: _types(hint) for name, hint in _HINTS.items()}


def _column(found: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - as the column has it
    value = _value(found, name, *_COLUMN_TYPES[name])
    if value is None or not (read := _READERS.get(name)):
        return value
    return read(name, value)


def _instant(name: str, text: str) -> datetime:
    try:
        instant = from_text(text)
        if to_text(instant) == text:
            return instant
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{name}: expected an instant such as 2026-11-23T12:30:00.000000Z, got other text")


def _bytes(name: str, text: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
        if b64encode(data).decode() == text:
            return data
    except ValueError:
        pass
    raise ValueError(f"{name}: expected bytes in base64, got other text")


_READERS: dict[str, Callable[[str, str], object]] = {
    name: _bytes if bytes in (get_args(hint) or (hint,)) else _instant
    for name, hint in _HINTS.items()
    if {bytes, datetime} & set(get_args(hint) or (hint,))
}


def _job(found: Mapping[str, Any]) -> RecordedJob:
    _require_known(found, tuple(field.name for field in fields(RecordedJob)))
    state = _value(found, "state", str)
    if state not in list(JobState):
        raise ValueError(f"state: expected one of {', '.join(JobState)}, got other text")
    return RecordedJob(
        worker=_value(found, "worker", str),
        queue=_value(found, "queue", str),
        state=JobState(state),
        priority=_value(found, "priority", int),
        attempt=_value(found, "attempt", int),
        max_attempts=_value(found, "max_attempts", int),
        args=_value(found, "args", dict),
        meta=_value(found, "meta", dict),
        tags=_items(found, "tags", str),
        errors=_items(found, "errors", dict),
        attempted_by=_items(found, "attempted_by", str),
        inserted_at=_instant("inserted_at", _value(found, "inserted_at", str)),
        scheduled_at=_instant("scheduled_at", _value(found, "scheduled_at", str)),
        attempted_at=_optional_instant(found, "attempted_at"),
        cancelled_at=_optional_instant(found, "cancelled_at"),
        completed_at=_optional_instant(found, "completed_at"),
        discarded_at=_optional_instant(found, "discarded_at"),
    )


def _items(found: Mapping[str, Any], name: str, of: type) -> tuple[Any, ...]:
    items = _value(found, name, list)
    for item in items:
        if type(item) is not of:
            raise ValueError(f"{name}: expected {_JSON_NAMES[of]} in each place, got {_type(item)}")
    return tuple(items)


def _optional_instant(found: Mapping[str, Any], name: str) -> datetime | None:
    text = _value(found, name, str, type(None))
    return None if text is None else _instant(name, text)
