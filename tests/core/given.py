"""Given a history, when a command is decided, then these events and this reply (as in Emmett)."""

from datetime import UTC, datetime, timedelta

from signal_ledger.cursors import position_cursor
from signal_ledger.decide import decide
from signal_ledger.decisions import Accepted, Refused
from signal_ledger.events import (
    Awaited,
    Cascaded,
    Cause,
    Closed,
    Consumed,
    Delivered,
    DeliveryOutcome,
    Planned,
    Released,
    Skipped,
    Snoozed,
    TimedOut,
)
from signal_ledger.evolve import fold
from signal_ledger.facts import look_up
from signal_ledger.jobs import JobState, JobView
from signal_ledger.plan import Plan
from signal_ledger.recorded import from_stored
from signal_ledger.stored import to_stored

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB = 7


def at(seconds):
    return NOON + timedelta(seconds=seconds)


def recorded(events, job_id=JOB):
    """Record events, each with the second at which it happened: [(0, Awaited(...)), (5, Snoozed(...))]."""
    rows = [
        to_stored(event, job_id=job_id, version=version, recorded_at=at(seconds))
        for version, (seconds, event) in enumerate(events, start=1)
    ]
    return [
        from_stored(row, position=position, cursor=position_cursor(position))
        for position, row in enumerate(rows, start=1)
    ]


class Given:
    def __init__(self, *events, job="executing", execution=1, attempt=1, cancel_requested=False):
        self.history = recorded(events)
        self.state = fold(JOB, self.history)
        self.job = job and JobView(
            state=JobState(job), execution=execution, attempt=attempt, cancel_requested=cancel_requested
        )

    def when(self, command, *, second):
        facts = look_up(self.history, self.state, command)
        self.decision = decide(self.state, self.job, command, facts, at(second))
        return self

    def then(self, *events, reply):
        assert self.decision == Accepted(events=events, reply=reply)

    def then_refused(self, refusal):
        assert self.decision == Refused(refusal=refusal)


# Events with what matters to a test, and defaults for the rest.


def awaited(ordinal=1, *, channel="", execution=1, run=1, deadline=None):
    deadline_at = None if deadline is None else at(deadline)
    return Awaited(run=run, execution=execution, attempt=1, channel=channel, ordinal=ordinal, deadline_at=deadline_at)


def snoozed(ordinal=1, *, channel="", execution=1, run=1, deadline=None):
    deadline_at = None if deadline is None else at(deadline)
    return Snoozed(run=run, execution=execution, attempt=1, channel=channel, ordinal=ordinal, deadline_at=deadline_at)


def delivered(signal_id="s1", *, channel="", run=1, key=None, payload=b"p", digest="d" * 64, outcome="buffered"):
    return Delivered(
        run=run,
        channel=channel,
        signal_id=signal_id,
        payload=payload,
        payload_digest=digest,
        key=key,
        source=None,
        outcome=DeliveryOutcome(outcome),
    )


def consumed(signal_id="s1", version=1, ordinal=1, *, channel="", execution=1, run=1):
    return Consumed(
        run=run,
        execution=execution,
        attempt=1,
        channel=channel,
        ordinal=ordinal,
        signal_id=signal_id,
        delivery_version=version,
    )


def timed_out(ordinal=1, *, deadline, channel="", execution=1, run=1):
    return TimedOut(run=run, execution=execution, attempt=1, channel=channel, ordinal=ordinal, deadline_at=at(deadline))


def closed(cause="completed", *, run=1, execution=1):
    return Closed(run=run, execution=execution, attempt=1, cause=Cause(cause))


def a_plan(name="charge", deps=(), *, ignore=(), workflow="w", workflow_name=None):
    causes = tuple(Cause(cause) for cause in ignore)
    return Plan(workflow_id=workflow, workflow_name=workflow_name, name=name, deps=tuple(deps), ignore=causes)


def planned(name="charge", deps=(), *, ignore=(), workflow="w", workflow_name=None, run=1):
    plan = a_plan(name, deps, ignore=ignore, workflow=workflow, workflow_name=workflow_name)
    return Planned(run=run, plan=plan)


def released(dep="approval", *, run=1):
    return Released(run=run, dep=dep)


def skipped(dep="approval", cause="cancelled", *, run=1):
    return Skipped(run=run, dep=dep, cause=Cause(cause))


def cascaded(dep="approval", cause="cancelled", *, run=1):
    return Cascaded(run=run, dep=dep, cause=Cause(cause))
