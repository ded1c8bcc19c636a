"""Between the core's values and what PostgreSQL's driver returns."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any, Protocol, cast

from signal_ledger.causes import Cause
from signal_ledger.decisions import (
    CancelRequested,
    Conflict,
    DeliverReply,
    Duplicate,
    Fate,
    GotSignal,
    GotTimeout,
    Ignored,
    MustSnooze,
    OutOfOrder,
    Stale,
    TakeRefusal,
    TakeReply,
    Waiting,
    new_stored,
)
from signal_ledger.events import DeliveryOutcome
from signal_ledger.jobs import JobState
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.plan import Plan
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.steps import SeenStep, Step, see
from signal_ledger.stored import SCHEMA_VERSION
from signal_ledger.upcast import NewerEventError
from signal_ledger.wait_state import Inbox, OpenWait, Status, WaitState
from signal_ledger_adapters.postgres.tables import JOB_INSTANTS


class Row(Protocol):
    """A row as the driver, or SQLAlchemy, returns it."""

    def __getitem__(self, column: str, /) -> Any:  # noqa: ANN401 - what the columns hold is guaranteed by the tables
        """Return a column."""
        ...


def to_recorded_job(row: Row) -> RecordedJob:
    """Read a row of Oban's, its documents and arrays as the text of JSON; null is one without anything in it."""
    instants = {name: row[name] and row[name].replace(tzinfo=UTC) for name in JOB_INSTANTS}
    return RecordedJob(
        worker=row["worker"],
        queue=row["queue"],
        state=JobState(row["state"]),
        priority=row["priority"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        args=json.loads(row["args"] or "{}"),
        meta=json.loads(row["meta"] or "{}"),
        tags=tuple(json.loads(row["tags"] or "[]")),
        errors=tuple(json.loads(row["errors"] or "[]")),
        attempted_by=tuple(json.loads(row["attempted_by"] or "[]")),
        **instants,
    )


def to_state(row: Row) -> WaitState:
    """Read a projection.

    Raises:
        NewerEventError: The stream holds an event of a newer schema version.
    """
    job_id = JobId(row["job_id"])
    if row["schema_version"] > SCHEMA_VERSION:
        raise newer(job_id, row["version"], row["schema_version"])
    return WaitState(
        job_id=job_id,
        run=row["run"],
        version=row["version"],
        recorded_at=row["recorded_at"],
        status=Status(row["status"]),
        current=row["current"],
        execution=Execution(row["execution"]),
        waits=tuple(OpenWait(**dict(wait)) for wait in row["waits"]),
        inboxes=tuple(Inbox(**dict(inbox)) for inbox in row["inboxes"]),
    )


def to_step(row: Row) -> Step:
    """Read a step, without its deps."""
    return Step(
        plan=replace(Plan.from_text(row["plan"]), deps=()),
        job_id=JobId(row["job_id"]),
        held=row["held"],
        planned_at=row["planned_at"],
        ended_as=_to_cause(row["ended_as"]),
        ended_at=row["ended_at"],
    )


def to_seen_step(row: Row) -> SeenStep:
    """Read a step with the state of its job, and how its deps ended."""
    deps: Sequence[str] = row["deps"] or []
    ends: Sequence[str | None] = row["as"] or []
    edges = {dep: _to_cause(ended_as) for dep, ended_as in zip(deps, ends, strict=True)}
    return see(to_step(row), row["job_state"], edges)


def _to_cause(text: str | None) -> Cause | None:
    return None if text is None else Cause(text)


def newer(job_id: JobId, version: int, schema_version: int) -> NewerEventError:
    """Say that a newer version of the library has written to a stream."""
    return NewerEventError(job_id=job_id, version=version, kind="or an earlier one", schema_version=schema_version)


type DeliverRow = Sequence[Any]
"""What ``deliver`` says of a delivery: outcome, version, signal_id, reason, job_id."""

_STORED = {outcome.value: outcome for outcome in DeliveryOutcome}


def to_deliver_reply(
    outcome: str, version: int | None, signal_id: str | None, reason: str | None
) -> DeliverReply | Conflict:
    """Read what ``deliver`` says of a delivery; the database's function says which of it there is."""
    if (stored := _STORED.get(outcome)) is not None:
        return new_stored(outcome=stored, version=cast("int", version))
    match outcome:
        case "ignored":
            return Ignored(reason=cast("str", reason))
        case "duplicate":
            return Duplicate(
                signal_id=SignalId(cast("str", signal_id)), version=cast("int", version), fate=Fate(cast("str", reason))
            )
        case "conflict":
            return Conflict(key="", signal_id=SignalId(cast("str", signal_id)), difference=cast("str", reason))
        case other:
            raise AssertionError(other)


def to_take_reply(row: Row) -> TakeReply | TakeRefusal:
    """Read a row of ``take``."""
    match row["reply"]:
        case "signal":
            return GotSignal(
                signal_id=SignalId(row["signal_id"]),
                payload=row["payload"],
                delivered_at=row["delivered_at"],
                recorded_at=row["recorded_at"],
                traceparent=row["traceparent"],
            )
        case "timeout":
            return GotTimeout(deadline_at=row["deadline_at"], recorded_at=row["recorded_at"])
        case "waiting":
            left: timedelta | None = row["remaining"]
            return Waiting(left=left)
        case "snooze":
            return MustSnooze()
        case "stale":
            return Stale()
        case "cancel":
            return CancelRequested()
        case "order":
            return OutOfOrder(expected=row["expected"])
        case other:
            raise AssertionError(other)


def columns_of[T](values: Sequence[T], *names: str) -> list[list[Any]]:
    """Turn values into arrays, one for each of their attributes."""
    return [[getattr(value, name) for value in values] for name in names]
