"""Checks of one stream: is each event whole, and could the rules have written it?"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from types import NoneType
from typing import NamedTuple, assert_never, get_args, get_type_hints

from signal_ledger.codec import decode, encode_with_digest
from signal_ledger.errors import PayloadError, SchemaError
from signal_ledger.events import (
    KIND_OF,
    Awaited,
    Cascaded,
    Closed,
    Consumed,
    Delivered,
    Event,
    Planned,
    Released,
    Skipped,
    Snoozed,
    TimedOut,
)
from signal_ledger.evolve import evolve
from signal_ledger.names import JobId
from signal_ledger.ports import UnreadableEvent
from signal_ledger.recorded import from_stored
from signal_ledger.stored import StoredEvent, checksum
from signal_ledger.story import StepStory
from signal_ledger.wait_state import Status, WaitState


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in the log, or in its projection, that should not be.

    Args:
        job_id: The stream; None if it is about the whole log.
        version: The event; None if it is about the stream as a whole.
        rule: The promise that is broken, such as ``L7 checksum``.
        expected: What should be there.
        found: What is there instead. Never a payload.
    """

    job_id: JobId | None
    version: int | None
    rule: str
    expected: str
    found: str

    def __str__(self) -> str:
        stream = "the log" if self.job_id is None else f"job {self.job_id}"
        where = stream if self.version is None else f"{stream}, version {self.version}"
        return f"{where}: {self.rule}: expected {self.expected}, found {self.found}"


_REQUIRED = {
    event_class: [name for name, hint in get_type_hints(event_class).items() if NoneType not in get_args(hint)]
    for event_class in KIND_OF
}


class Wrong(NamedTuple):
    """What is wrong with an event; see `Finding`."""

    rule: str
    expected: str
    found: str


class _Pending(NamedTuple):
    version: int
    signal_id: str
    recorded_at: datetime


class StreamCheck:
    """Checks the events of one stream in their order. Memory grows with what is pending only.

    Args:
        job_id: The stream.
    """

    def __init__(self, job_id: JobId) -> None:
        self.job_id = job_id
        self.state: WaitState | None = WaitState(job_id=job_id)
        """The fold so far; None once an event could not be read."""
        self._version = 0
        self._recorded_at: datetime | None = None
        self._ends: Counter[str] = Counter()
        self._pending: dict[str, deque[_Pending]] = {}
        self._is_planned = False
        self.step = StepStory()
        """What the events so far tell of the step that the job is."""

    def check(self, row: StoredEvent | UnreadableEvent) -> Iterator[Finding]:
        """Check the next event."""
        for wrong in self._unreadable(row) if isinstance(row, UnreadableEvent) else self._wrongs(row):
            yield Finding(job_id=self.job_id, version=row.version, **wrong._asdict())

    def _unreadable(self, row: UnreadableEvent) -> Iterator[Wrong]:
        yield from self._next_version(row.version)
        yield Wrong("L8 readable", "an event that this library knows", row.reason)
        self.state = None

    def _next_version(self, version: int) -> Iterator[Wrong]:
        if version != self._version + 1:
            yield Wrong("L1 version", f"version {self._version + 1}", f"version {version}")
        self._version = version

    def _wrongs(self, row: StoredEvent) -> Iterator[Wrong]:
        yield from self._next_version(row.version)
        if (actual := checksum(row)) != row.checksum:
            yield Wrong("L7 checksum", f"checksum {row.checksum}", f"columns with checksum {actual}")
        if self._recorded_at is not None and row.recorded_at < self._recorded_at:
            yield Wrong("W7 time", f"a time from {self._recorded_at.isoformat()}", row.recorded_at.isoformat())
        self._recorded_at = row.recorded_at
        yield from check_payload(row)
        if self.state is None:
            return
        try:
            event = from_stored(row, position=0, cursor="").event
            require_columns(event)
        except (SchemaError, ValueError, TypeError) as error:
            yield Wrong("L8 readable", "an event that this library knows", str(error))
            self.state = None
            return
        yield from self._rules(self.state, event, row)
        self.state = evolve(self.state, event, version=row.version, recorded_at=row.recorded_at)
        if isinstance(event, Planned | Closed):
            self.step.add(event, row.recorded_at)

    def _rules(self, state: WaitState, event: Event, row: StoredEvent) -> Iterator[Wrong]:
        if event.run != state.open_run:
            yield Wrong("W10 run", f"run {state.open_run}", f"run {event.run}")
        if event.run != state.run or state.status is Status.CLOSED:
            self._ends.clear()
            self._pending.clear()
            self._is_planned = False
        match event:
            case Awaited() | Snoozed():
                yield from self._open(state, event)
            case Delivered():
                pending = _Pending(row.version, event.signal_id, row.recorded_at)
                self._pending.setdefault(event.channel, deque()).append(pending)
            case Consumed():
                yield from self._end(event)
                yield from self._consumed(state, event)
            case TimedOut():
                yield from self._end(event)
                yield from self._timed_out(state, event, row.recorded_at)
            case Planned() | Released() | Skipped() | Cascaded():
                yield from self._step(state, event, row.version)
            case Closed():
                pass
            case _:
                assert_never(event)

    def _step(self, state: WaitState, event: Planned | Released | Skipped | Cascaded, version: int) -> Iterator[Wrong]:
        if isinstance(event, Planned):
            if state.version > 0 and state.status is not Status.CLOSED:
                yield Wrong("F5 plan", "the first event of its run", f"event {version}")
            plan = self.step.plan
            if plan is not None and plan != replace(event.plan, deps=()):
                yield Wrong("F5 plan", f"step {plan.name!r} of workflow {plan.workflow_id} again", "another plan")
            self._is_planned = True
        elif not self._is_planned:
            yield Wrong("F5 plan", "a planned event before it in the run", "none")

    def _open(self, state: WaitState, event: Awaited | Snoozed) -> Iterator[Wrong]:
        expected = self._ends[event.channel] + 1
        if event.ordinal != expected:
            yield Wrong("W9 ordinal", f"await {expected}", f"await {event.ordinal}")
        wait = state.wait_on(event.channel)
        if wait is not None and wait.deadline_is_final and wait.deadline_at != event.deadline_at:
            yield Wrong("W6 deadline", _instant(wait.deadline_at), _instant(event.deadline_at))

    def _end(self, event: Consumed | TimedOut) -> Iterator[Wrong]:
        self._ends[event.channel] += 1
        expected = self._ends[event.channel]
        if event.ordinal != expected:
            yield Wrong("W8 one outcome a wait", f"await {expected}", f"await {event.ordinal}")

    def _consumed(self, state: WaitState, event: Consumed) -> Iterator[Wrong]:
        pending = self._pending.get(event.channel)
        if not pending:
            yield Wrong("W8 at most once", "a pending signal", f"{event.signal_id}, which is not pending")
            return
        oldest = pending[0]
        if (oldest.version, oldest.signal_id) != (event.delivery_version, event.signal_id):
            yield Wrong("D4 first in, first out", f"delivery {oldest.version}", f"delivery {event.delivery_version}")
        wait = state.wait_on(event.channel)
        if wait is not None and wait.deadline_at is not None and oldest.recorded_at > wait.deadline_at:
            yield Wrong("W7 deadline", f"a signal by {_instant(wait.deadline_at)}", _instant(oldest.recorded_at))
        remaining = [signal for signal in pending if signal.signal_id != event.signal_id]
        self._pending[event.channel] = deque(remaining)

    def _timed_out(self, state: WaitState, event: TimedOut, recorded_at: datetime) -> Iterator[Wrong]:
        wait = state.wait_on(event.channel)
        if wait is None or wait.deadline_at != event.deadline_at:
            found = "no open wait" if wait is None else _instant(wait.deadline_at)
            yield Wrong("W6 deadline", _instant(event.deadline_at), found)
        if recorded_at <= event.deadline_at:
            yield Wrong("W7 deadline", f"a time after {_instant(event.deadline_at)}", _instant(recorded_at))
        pending = self._pending.get(event.channel)
        if pending and pending[0].recorded_at <= event.deadline_at:
            yield Wrong("W7 deadline", f"delivery {pending[0].version} consumed", "a timeout")


def require_columns(event: Event) -> None:
    """Check that nothing is missing. The types say that nothing is; a row can say otherwise.

    Raises:
        ValueError: Something is.
    """
    for name in _REQUIRED[type(event)]:
        if getattr(event, name) is None:
            raise ValueError(f"a {KIND_OF[type(event)]} event without {name}")


def check_payload(row: StoredEvent) -> Iterator[Wrong]:
    """Yield what is wrong with a row's payload.

    The digest is that of the canonical encoding; of the bytes themselves if another program wrote them.
    """
    if row.payload is None:
        return
    digests = [hashlib.sha256(row.payload).hexdigest()]
    try:
        value = decode(row.payload)
    except PayloadError as error:
        yield Wrong("D9 payload", "bytes that decode", str(error))
    else:
        # Another program may have written what this library reads but would not write, such as a very large integer.
        with suppress(PayloadError):
            digests.append(encode_with_digest(value).digest)
    if row.payload_digest not in digests:
        yield Wrong("L7 payload", f"a payload with digest {row.payload_digest}", "another payload")


def _instant(instant: datetime | None) -> str:
    return "no deadline" if instant is None else instant.isoformat(timespec="microseconds")
