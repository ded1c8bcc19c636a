"""Between the core's values and the columns of the tables."""

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from json.encoder import encode_basestring_ascii
from typing import Any

from signal_ledger.causes import Cause
from signal_ledger.commands import Deliver
from signal_ledger.embedded.job_row import JobRow
from signal_ledger.instants import from_text, to_text
from signal_ledger.jobs import JobState
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.plan import Plan
from signal_ledger.steps import Step
from signal_ledger.stored import SCHEMA_VERSION, StoredEvent
from signal_ledger.upcast import NewerEventError
from signal_ledger.wait_state import Inbox, OpenWait, Status, WaitState

type Columns = Sequence[Any]
"""A row as SQLite returns it; what the columns hold is guaranteed by STRICT tables."""

# Made once: json.dumps and json.loads would make one for each call.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

_STATUSES = {status.value: status for status in Status}

JOB_COLUMNS = tuple(field.name for field in fields(JobRow))
STEP_COLUMNS = ("job_id", "plan", "held", "planned_at", "ended_as", "ended_at")
_JOB_INSTANTS = tuple(name for name in JOB_COLUMNS if name.endswith("_at"))

_RECORDED_AT = StoredEvent._fields.index("recorded_at")
_DEADLINE_AT = StoredEvent._fields.index("deadline_at")


def event_columns(row: StoredEvent) -> tuple[object, ...]:
    """The columns of an event, in the order of `StoredEvent`."""
    columns: list[object] = list(row)
    columns[_RECORDED_AT] = to_text(row.recorded_at)
    columns[_DEADLINE_AT] = _text(row.deadline_at)
    return tuple(columns)


def to_stored_event(columns: Columns) -> StoredEvent:
    """Read the columns of an event.

    Raises:
        ValueError: An instant is none.
    """
    values = list(columns)
    values[_RECORDED_AT] = _instant(values[_RECORDED_AT])
    values[_DEADLINE_AT] = _instant(values[_DEADLINE_AT])
    return StoredEvent._make(values)


def state_columns(state: WaitState) -> tuple[object, ...]:
    """The columns of a projection, in the order of ``save_state.sql``."""
    wait = state.wait
    return (
        state.job_id,
        state.run,
        state.version,
        _text(state.recorded_at),
        state.status._value_,
        state.current,
        None if wait is None else wait.ordinal,
        None if wait is None else to_text(wait.since),
        None if wait is None else _text(wait.deadline_at),
        state.execution,
        _waits_text(state.waits) if state.waits else "[]",
        _inboxes_text(state.inboxes),
        SCHEMA_VERSION,
    )


def to_state(job_id: JobId, columns: Columns) -> WaitState:
    """Read a projection.

    Args:
        job_id: The job.
        columns: run, version, recorded_at, status, current, execution, waits, inboxes, schema_version.

    Raises:
        NewerEventError: The stream holds an event of a newer schema version.
    """
    run, version, recorded_at, status, current, execution, waits, inboxes, schema_version = columns
    if schema_version > SCHEMA_VERSION:
        raise NewerEventError(job_id=job_id, version=version, kind="or an earlier one", schema_version=schema_version)
    return WaitState(
        job_id=job_id,
        run=run,
        version=version,
        recorded_at=_instant(recorded_at),
        status=_STATUSES[status],
        current=current,
        execution=Execution(execution),
        waits=() if waits == "[]" else tuple(_to_wait(wait) for wait in _decode(waits)),
        inboxes=() if inboxes == "[]" else tuple(_to_inbox(inbox) for inbox in _decode(inboxes)),
    )


def to_job_row(columns: Columns) -> JobRow:
    """Read a job, its columns in the order of `JobRow`."""
    values: dict[str, Any] = dict(zip(JOB_COLUMNS, columns, strict=True))
    values["state"] = JobState(values["state"])
    for name in ("args", "meta"):
        values[name] = _decode(values[name])
    for name in ("tags", "errors", "attempted_by"):
        values[name] = tuple(_decode(values[name]))
    for name in _JOB_INSTANTS:
        values[name] = _instant(values[name])
    values["cancel_requested"] = bool(values["cancel_requested"])
    return JobRow(**values)


def job_update_columns(row: JobRow) -> tuple[object, ...]:
    """The parameters of ``job_update.sql``."""
    return (
        row.state.value,
        row.attempt,
        row.max_attempts,
        to_json(row.meta),
        to_json(row.errors),
        to_json(row.attempted_by),
        to_text(row.scheduled_at),
        _text(row.attempted_at),
        _text(row.cancelled_at),
        _text(row.completed_at),
        _text(row.discarded_at),
        row.execution,
        row.node,
        int(row.cancel_requested),
        row.id,
    )


def job_insert_columns(row: JobRow, above: JobId) -> tuple[object, ...]:
    """The parameters of ``job_insert.sql``; the id is yet to be drawn, above one that is given."""
    return (
        above,
        row.state.value,
        row.queue,
        row.worker,
        row.max_attempts,
        row.priority,
        to_json(row.args),
        to_json(row.meta),
        to_json(row.tags),
        to_text(row.inserted_at),
        to_text(row.scheduled_at),
    )


def step_insert_columns(step: Step) -> tuple[object, ...]:
    """The parameters of ``step_insert.sql``."""
    plan = step.plan
    return (plan.workflow_id, plan.name, step.job_id, plan.text, step.held, to_text(step.planned_at))


def step_update_columns(step: Step) -> tuple[object, ...]:
    """The parameters of ``step_update.sql``."""
    return (step.held, step.ended_as, _text(step.ended_at), step.job_id)


def step_rewrite_columns(step: Step) -> tuple[object, ...]:
    """The parameters of ``step_rewrite.sql``."""
    return (step.held, to_text(step.planned_at), step.ended_as, _text(step.ended_at), step.job_id)


def to_step(columns: Columns) -> Step:
    """Read a step, its columns in the order of `STEP_COLUMNS`.

    Raises:
        ValueError: The plan is none.
    """
    job_id, plan, held, planned_at, ended_as, ended_at = columns
    return Step(
        plan=Plan.from_text(plan),
        job_id=JobId(job_id),
        held=held,
        planned_at=from_text(planned_at),
        ended_as=to_cause(ended_as),
        ended_at=_instant(ended_at),
    )


def to_cause(text: str | None) -> Cause | None:
    """Read how a step or an edge ended."""
    return None if text is None else Cause(text)


def outbox_columns(deliveries: Sequence[Deliver], stored_at: datetime) -> tuple[object, ...]:
    """The parameters of ``outbox_store.sql``; what the deliveries of a call have in common is the first one's."""
    first = deliveries[0]
    own = [[delivery.signal_id, delivery.job_id, ",".join(delivery.key_ids)] for delivery in deliveries]
    return (
        first.channel,
        first.payload,
        first.payload_digest,
        first.key,
        first.source,
        to_text(stored_at),
        to_json(own),
    )


def to_pending(columns: Columns) -> tuple[int, Deliver]:
    """Read a row of ``outbox_pending.sql``."""
    place, job_id, signal_id, channel, payload, payload_digest, key, key_ids, source = columns
    delivery = Deliver(
        job_id=JobId(job_id),
        signal_id=SignalId(signal_id),
        channel=channel,
        payload=payload,
        payload_digest=payload_digest,
        key=key,
        key_ids=tuple(SignalId(key_id) for key_id in key_ids.split(",") if key_id),
        source=source,
    )
    return place, delivery


def to_json(value: object) -> str:
    """Write JSON text."""
    return _encode(value)


def _waits_text(waits: tuple[OpenWait, ...]) -> str:
    return to_json(
        [
            [
                wait.channel,
                wait.ordinal,
                to_text(wait.since),
                wait.deadline_is_final,
                _text(wait.deadline_at),
                wait.was_snoozed,
            ]
            for wait in waits
        ]
    )


def _to_wait(values: Columns) -> OpenWait:
    channel, ordinal, since, deadline_is_final, deadline_at, was_snoozed = values
    return OpenWait(
        channel=channel,
        ordinal=ordinal,
        since=from_text(since),
        deadline_is_final=deadline_is_final,
        deadline_at=_instant(deadline_at),
        was_snoozed=was_snoozed,
    )


def _inboxes_text(inboxes: tuple[Inbox, ...]) -> str:
    """Written by hand: every delivery comes this way."""
    return f"[{','.join([_inbox_text(inbox) for inbox in inboxes])}]"


def _inbox_text(inbox: Inbox) -> str:
    channel = encode_basestring_ascii(inbox.channel) if inbox.channel else '""'
    return f"[{channel},{inbox.pending},{inbox.after}]"


def _to_inbox(values: Columns) -> Inbox:
    channel, pending, after = values
    return Inbox(channel=channel, pending=pending, after=after)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else from_text(text)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else to_text(instant)
