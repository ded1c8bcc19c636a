"""Streams that the rules themselves have written, command by command; see `signal_ledger.testing.strategies.histories`.

A history begins with nothing. Each `Step` is a command, at some time, to a job that is found in some state; whatever
`signal_ledger.decide` accepts is appended, as a store would.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, assert_never

from signal_ledger.causes import Cause
from signal_ledger.codec import encode_with_digest
from signal_ledger.commands import Close, Command, Deliver, Snooze, Take
from signal_ledger.cursors import position_cursor
from signal_ledger.decide import decide
from signal_ledger.decisions import Accepted, Reply
from signal_ledger.events import Consumed, Event, TimedOut
from signal_ledger.evolve import evolve, fold
from signal_ledger.facts import look_up
from signal_ledger.jobs import JobState, JobView
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.stored import to_stored
from signal_ledger.wait_state import Status, WaitState


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is asked, when, and how the job is found.

    Args:
        kind: The command.
        seconds: How long after the step before.
        found: Whether the job is as its last event has left it, as ``view`` says, or missing.
        view: The job, if it is found so.
        execution: The execution that asks.
        channel: The channel, as stored.
        payload: What is sent. Never shown by ``repr``.
        key: With which key.
        wait_for: How long a wait is to last.
        back: How many awaits back is asked for: 0 for the next one, 1 for one that has ended.
        in_place: Whether the wait is to time out in place, if it is to last for some time.
        window: Whether there is a live window.
    """

    kind: Literal["deliver", "take", "snooze", "close"]
    seconds: float
    found: Literal["as the log left it", "as it may be", "missing"]
    view: JobView
    execution: Execution
    channel: str
    payload: object = field(repr=False)
    key: str | None
    wait_for: timedelta | None
    back: int
    in_place: bool
    window: bool


class History:
    """A stream that was written by the rules.

    Attributes:
        job_id: The job.
        events: Its recorded events.
        state: Their fold.
        now: When the last command was decided.
        accepted: The commands that were accepted, each with its decision: also those that wrote nothing.
    """

    def __init__(self, job_id: JobId, steps: Iterable[Step] = ()) -> None:
        self.job_id = job_id
        self.events: list[RecordedEvent] = []
        self.state: WaitState = fold(job_id, [])
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.accepted: list[tuple[Command, Accepted[Reply]]] = []
        for step in steps:
            self._take(step)

    def __repr__(self) -> str:
        return f"History({[recorded.event for recorded in self.events]})"

    def _take(self, step: Step) -> None:
        self.now += timedelta(seconds=step.seconds)
        command = self._command(step)
        facts = look_up(self.events, self.state, command)
        decision = decide(self.state, self._job(step, command), command, facts, self.now)
        if isinstance(decision, Accepted):
            self.accepted.append((command, decision))
            for event in decision.events:
                self._append(event)

    def _command(self, step: Step) -> Command:
        match step.kind:
            case "deliver":
                encoded = encode_with_digest(step.payload)
                return Deliver(
                    job_id=self.job_id,
                    signal_id=SignalId(f"s{len(self.events)}"),
                    channel=step.channel,
                    payload=encoded.data,
                    payload_digest=encoded.digest,
                    key=step.key,
                )
            case "close":
                return Close(job_id=self.job_id, cause=Cause.COMPLETED)
            case "snooze":
                return Snooze(
                    job_id=self.job_id,
                    execution=step.execution,
                    channel=step.channel,
                    ordinal=self._next_ordinal(step.channel),
                    wait_for=step.wait_for,
                )
            case "take":
                return Take(
                    job_id=self.job_id,
                    execution=step.execution,
                    channel=step.channel,
                    ordinal=max(1, self._next_ordinal(step.channel) - step.back),
                    wait_for=step.wait_for,
                    in_place=step.in_place and step.wait_for is not None,
                    window=step.window,
                )
            case _:
                assert_never(step.kind)

    def _next_ordinal(self, channel: str) -> int:
        ends = [
            recorded.event
            for recorded in self.events
            if isinstance(recorded.event, Consumed | TimedOut) and recorded.run == self.state.open_run
        ]
        return 1 + sum(end.channel == channel for end in ends)

    def _job(self, step: Step, command: Command) -> JobView | None:
        """The job as it is found."""
        match step.found:
            case "missing":
                return None
            case "as it may be":
                return step.view
            case "as the log left it":
                if isinstance(command, Take | Snooze):
                    return replace(step.view, state=JobState.EXECUTING, execution=command.execution)
                sleeps = self.state.status is Status.SNOOZED
                state = JobState.SCHEDULED if sleeps else JobState.EXECUTING
                return replace(step.view, state=state, execution=self.state.execution)
            case _:
                assert_never(step.found)

    def _append(self, event: Event) -> None:
        version = self.state.version + 1
        row = to_stored(event, job_id=self.job_id, version=version, recorded_at=self.now)
        self.events.append(from_stored(row, position=version, cursor=position_cursor(version)))
        self.state = evolve(self.state, event, version=version, recorded_at=self.now)
