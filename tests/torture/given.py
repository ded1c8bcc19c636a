"""Small histories made by hand: one job, whose stream is told event by event."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from signal_ledger.causes import Cause
from signal_ledger.codec import encode_with_digest
from signal_ledger.events import Awaited, Closed, Consumed, Delivered, DeliveryOutcome, Snoozed, TimedOut
from signal_ledger.recorded import RecordedEvent
from tests.torture.history import FOR_EVER, Call, History, JobSeen, Saw, Told, mark_of
from tests.torture.log_rules import folds_of

JOB = 7
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def second(number):
    """An instant."""
    return T0 + timedelta(seconds=number)


def recorded(event, version, *, at=None, job_id=JOB, position=None):
    """An event as the log holds it. Unless said otherwise a second passes with each version."""
    return RecordedEvent(
        position=position or version,
        cursor=str(version),
        job_id=job_id,
        version=version,
        recorded_at=second(version if at is None else at),
        schema_version=1,
        checksum=f"checksum-{job_id}-{version}",
        event=event,
    )


def delivered(source, value=None, *, outcome="buffered", channel="", key=None, signal_id=None, run=1):
    encoded = encode_with_digest(value)
    return Delivered(
        run=run,
        channel=channel,
        signal_id=signal_id or f"id-{source}",
        payload=encoded.data,
        payload_digest=encoded.digest,
        key=key,
        source=source,
        outcome=DeliveryOutcome(outcome),
    )


def _wait(execution, channel, ordinal, run):
    return {"run": run, "execution": execution, "attempt": 1, "channel": channel, "ordinal": ordinal}


def awaited(*, execution=1, channel="", ordinal=1, deadline=None, run=1):
    return Awaited(
        **_wait(execution, channel, ordinal, run), deadline_at=None if deadline is None else second(deadline)
    )


def snoozed(*, execution=1, channel="", ordinal=1, deadline=None, run=1):
    return Snoozed(
        **_wait(execution, channel, ordinal, run), deadline_at=None if deadline is None else second(deadline)
    )


def consumed(source, version, *, execution=1, channel="", ordinal=1, run=1, signal_id=None):
    return Consumed(
        **_wait(execution, channel, ordinal, run), signal_id=signal_id or f"id-{source}", delivery_version=version
    )


def timed_out(deadline, *, execution=1, channel="", ordinal=1, run=1):
    return TimedOut(**_wait(execution, channel, ordinal, run), deadline_at=second(deadline))


def closed(*, execution=1, cause="completed", run=1):
    return Closed(run=run, execution=execution, attempt=1, cause=Cause(cause))


def stream(*events, job_id=JOB):
    """A stream of one job; a pair says when its event was recorded."""
    listed = [event if isinstance(event, tuple) else (event, None) for event in events]
    return [recorded(event, version, at=at, job_id=job_id) for version, (event, at) in enumerate(listed, 1)]


def history(*events, **others):
    """A history with this stream, and everything that goes with it by itself."""
    log = stream(*events)
    states = {JOB: folds_of(JOB, log)[-1]} if log else {}
    marks = [mark_of(event) for event in log]
    given = {
        "log": log,
        "states": states,
        "followed": marks,
        "snapshots": [marks, marks],
        "samples": list(states.values()),
        "ended_at": second(1000),
        **others,
    }
    return History(**given)


def call(source, value=None, *, began=1, ended=2, attempt=1, channel="", targets=(JOB,), **others):
    """A call that was acknowledged, unless it is said otherwise. Its times are seconds and nanoseconds alike."""
    encoded = encode_with_digest(value)
    return Call(
        id=f"{source}.{attempt}",
        signal=source,
        targets=targets,
        channel=channel,
        digest=encoded.digest,
        bytes_digest=hashlib.sha256(encoded.data).hexdigest(),
        began=began,
        ended=ended,
        **{
            "key": None,
            "status": "ok",
            "answered": None if ended == FOR_EVER else ended,
            "began_at": second(began),
            "answered_at": None if ended == FOR_EVER else second(ended),
            **others,
        },
    )


def told(source, version, outcome="buffered", *, job_id=JOB, reason=None):
    signal_id = None if outcome == "ignored" else f"id-{source}"
    return Told(job_id=job_id, outcome=outcome, signal_id=signal_id, version=version, reason=reason)


def saw_signal(value=None, *, execution=1, channel="", ordinal=1, at=100):
    digest = encode_with_digest(value).digest
    seen_at = second(at)
    return Saw(
        job_id=JOB,
        execution=execution,
        channel=channel,
        ordinal=ordinal,
        outcome="signal",
        digest=digest,
        seen_at=seen_at,
    )


def saw_timeout(at, *, execution=1, channel="", ordinal=1):
    return Saw(job_id=JOB, execution=execution, channel=channel, ordinal=ordinal, outcome="timeout", seen_at=second(at))


def asleep():
    return {JOB: JobSeen(state="scheduled")}


def without(history, **fields):
    """The same with something changed."""
    return replace(history, **fields)
