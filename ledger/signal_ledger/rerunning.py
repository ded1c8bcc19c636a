"""Running a worker again on a history: a waiting room that answers out of the log, and what becomes of it.

Every await gets the outcome that it got then. Where the history holds none, the execution ends as it would to sleep.
Nothing in `process` can keep it from that (promise W11), and the room has noted why.
"""

from collections.abc import Iterable
from typing import NamedTuple

from signal_ledger.causes import Cause
from signal_ledger.codec import decode
from signal_ledger.commands import Take
from signal_ledger.decisions import GotSignal, GotTimeout, MustSnooze, TakeReply
from signal_ledger.delivery import Sender
from signal_ledger.engines import Engine
from signal_ledger.errors import PayloadError
from signal_ledger.events import Awaited, Closed, Consumed, Delivered, Planned, Snoozed, TimedOut
from signal_ledger.history import History
from signal_ledger.ledger import Ledger
from signal_ledger.names import NO_EXECUTION, Execution, JobId, public_channel
from signal_ledger.offline import Notebook, offline_error
from signal_ledger.plan import Plan
from signal_ledger.ports import LiveWait
from signal_ledger.recorded import RecordedEvent
from signal_ledger.rerun_report import Got, OpenAwait, ReplayedAwait, RerunEnd, RerunReport, await_name, error_text
from signal_ledger.turns import give_way

type Wait = tuple[str, int]
"""A channel, as stored, and an ordinal."""


class RecordedOutcome(NamedTuple):
    """The outcome of a wait, as the history holds it.

    Args:
        reply: What the await gets.
        told: The same for the report.
    """

    reply: GotSignal | GotTimeout
    told: ReplayedAwait


class RecordedRun:
    """What a history holds of one run.

    Args:
        history: The history.
        run: The run; None is the last one.

    Raises:
        ValueError: There is no such run, or an outcome refers to a delivery that is none.
    """

    def __init__(self, history: History, run: int | None = None) -> None:
        self.job_id = history.job_id
        self.number = _to_run(history, run)
        self.outcomes: dict[Wait, RecordedOutcome] = {}
        """In the order of the log."""
        self.opened: dict[Wait, OpenAwait] = {}
        """The waits without an outcome, also those that ended with the run; in the order in which they began."""
        self.plan: Plan | None = None
        """The step that the job is in this run, if it is one."""
        self.closed: RecordedEvent | None = None
        self.cause: Cause | None = None
        self.last_wait_version = 0
        self.last_execution = NO_EXECUTION
        self.attempt: int | None = None
        """That of the last execution; None if none has left an event."""
        self.began: RecordedEvent | None = None
        """The first event of the last execution."""
        for recorded in history:
            if recorded.run == self.number:
                self._add(recorded, history)

    def _add(self, recorded: RecordedEvent, history: History) -> None:
        event = recorded.event
        match event:
            case Awaited() | Snoozed():
                self._open(recorded, event)
            case Consumed() | TimedOut():
                wait = event.channel, event.ordinal
                self.opened.pop(wait, None)
                self.outcomes[wait] = _outcome(recorded, event, history)
            case Planned(plan=plan):
                self.plan = plan
            case Closed(cause=cause):
                self.closed, self.cause = recorded, cause
            case _:
                return
        if isinstance(event, Awaited | Snoozed | Consumed | TimedOut):
            self.last_wait_version = recorded.version
        if not isinstance(event, Planned):
            self._note_execution(recorded, event.execution, event.attempt)

    def _open(self, recorded: RecordedEvent, event: Awaited | Snoozed) -> None:
        wait = event.channel, event.ordinal
        before = self.opened.get(wait)
        self.opened[wait] = OpenAwait(
            channel=public_channel(event.channel),
            ordinal=event.ordinal,
            since=recorded.recorded_at if before is None else before.since,
            deadline_at=event.deadline_at,
            version=recorded.version,
        )

    def _note_execution(self, recorded: RecordedEvent, execution: Execution, attempt: int) -> None:
        if execution == NO_EXECUTION:
            # A job that ended without ever being run.
            return
        if execution != self.last_execution or self.attempt is None:
            self.last_execution, self.attempt, self.began = execution, attempt, recorded
        # The end of a job that slept tells of an attempt less: the snooze has given it back.
        self.attempt = max(1, self.attempt, attempt)


def _to_run(history: History, run: int | None) -> int:
    last = max((recorded.run for recorded in history), default=1)
    if run is None:
        return last
    if type(run) is not int or not 1 <= run <= last:
        raise ValueError(f"run: expected a run of the history, from 1 to {last}, got {run!r}")
    return run


def _outcome(recorded: RecordedEvent, event: Consumed | TimedOut, history: History) -> RecordedOutcome:
    channel = public_channel(event.channel)
    if isinstance(event, TimedOut):
        told = ReplayedAwait(
            channel=channel,
            ordinal=event.ordinal,
            got=Got.TIMEOUT,
            version=recorded.version,
            deadline_at=event.deadline_at,
        )
        return RecordedOutcome(GotTimeout(deadline_at=event.deadline_at), told)
    place = event.delivery_version - 1
    delivery = history[place].event if 0 <= place < len(history) else None
    if not isinstance(delivery, Delivered):
        raise ValueError(  # noqa: TRY004 - bad content
            f"history: expected event {event.delivery_version} to be the delivery that event {recorded.version} "
            "consumed, it is none"
        )
    told = ReplayedAwait(
        channel=channel,
        ordinal=event.ordinal,
        got=Got.SIGNAL if _is_readable(delivery) else Got.UNREADABLE,
        version=recorded.version,
        signal_id=event.signal_id,
        delivery_version=event.delivery_version,
        source=delivery.source,
    )
    return RecordedOutcome(GotSignal(signal_id=event.signal_id, payload=delivery.payload), told)


def _is_readable(delivery: Delivered) -> bool:
    if delivery.payload is None:
        return False
    try:
        decode(delivery.payload)
    except PayloadError:
        return False
    return True


class RecordedRoom:
    """A waiting room whose answers are in the log; see `signal_ledger.ports.WaitingRoom`.

    Args:
        run: The run.
    """

    def __init__(self, run: RecordedRun) -> None:
        self._run = run
        self._unasked = dict(run.outcomes)
        self.asked: list[ReplayedAwait] = []
        """The awaits, in the order in which they were asked for."""
        self.stopped_at: OpenAwait | None = None
        self.divergence: str | None = None
        self._begun: set[Wait] = set()

    @property
    def is_closing(self) -> bool:
        """Nobody waits here."""
        return True

    def enter(self, job_id: JobId) -> LiveWait | None:  # noqa: ARG002
        """There is no place: what the log does not hold will not come."""
        return None

    def leave(self, job_id: JobId, live: LiveWait) -> None:
        """Nobody has entered."""
        raise AssertionError(job_id, live)

    async def take(self, take: Take) -> TakeReply:
        """Answer as the log has it, or end the execution."""
        wait = take.channel, take.ordinal
        self._begun.add(wait)
        # Another task of process may have its turn now, and give this await up.
        await give_way()
        outcome = self._unasked.pop(wait, None)
        if outcome is not None:
            self.asked.append(outcome.told)
            return outcome.reply
        channel = public_channel(take.channel)
        self.asked.append(ReplayedAwait(channel=channel, ordinal=take.ordinal, got=Got.NOTHING))
        if wait in self._run.opened:
            self.stopped_at = self._run.opened[wait]
        elif (instead := self._instead()) is None:
            self.stopped_at = OpenAwait(channel=channel, ordinal=take.ordinal)
        else:
            name = await_name(channel, take.ordinal)
            self.divergence = f"asked for {name}, as its await number {len(self.asked)}; {instead}"
        return MustSnooze()

    @property
    def unasked(self) -> tuple[ReplayedAwait, ...]:
        """The outcomes that nobody asked for, in the order of the log."""
        return tuple(outcome.told for outcome in self._unasked.values())

    @property
    def missed(self) -> str | None:
        """What a process that has ended should have asked for; None if nothing."""
        opened = [told for wait, told in self._run.opened.items() if wait not in self._begun]
        waits: list[ReplayedAwait | OpenAwait] = [*self.unasked, *opened]
        if not waits:
            return None
        first, *others = waits
        more = f" and {len(others)} more" if others else ""
        return f"{await_name(first.channel, first.ordinal)} (event {first.version}){more}, which the history holds"

    @property
    def notes(self) -> list[str]:
        """What else there is to know of the awaits, such as that they were asked for in another order than then."""
        notes = []
        if self._went_on_past_a_failure:
            notes.append(
                "In the history the run ended before that await: what process calls may have failed then, and not now."
            )
        versions = [each.version for each in self.asked if each.version is not None]
        stopped_at = None if self.stopped_at is None else self.stopped_at.version
        if stopped_at is not None:
            versions += [stopped_at, *(each.version or 0 for each in self.unasked)]
        if versions != sorted(versions):
            notes.append(
                "The awaits of different channels were asked for in another order than then. Only the order on each "
                "channel counts, so this alone is no divergence."
            )
        if stopped_at is not None and stopped_at < self._run.last_wait_version:
            notes.append(
                "In the history the job went on without an outcome of the await at which the rerun stopped: process "
                "had given it up, as by a timeout of its own. A rerun cannot follow it there."
            )
        return notes

    @property
    def _went_on_past_a_failure(self) -> bool:
        """Whether process came to an await before which its run was discarded: there it failed then."""
        stopped_at = self.stopped_at
        return stopped_at is not None and stopped_at.version is None and self._run.cause is Cause.DISCARDED

    def _instead(self) -> str | None:
        """What the history holds instead of an await of which it holds nothing; None if it merely ends before it."""
        run = self._run
        if self._unasked:
            told = next(iter(self._unasked.values())).told
            return f"the history holds {await_name(told.channel, told.ordinal)} instead (event {told.version})"
        if run.opened:
            wait = next(iter(run.opened.values()))
            return (
                f"the history holds {await_name(wait.channel, wait.ordinal)} instead, still open (event {wait.version})"
            )
        if run.closed is not None and run.cause is not Cause.DISCARDED:
            return f"in the history the run ended without it (event {run.closed.version})"
        return None


class OfflineEngine(Engine):
    """Stands where a job expects its engine. What is sent through it is taken down.

    Args:
        notebook: Takes it down.
    """

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook

    @property
    def name(self) -> str:
        """What messages call it."""
        return "rerun"

    @property
    def ledger(self) -> Ledger:
        """There is none.

        Raises:
            RuntimeError: Always.
        """
        raise offline_error("ledger")

    async def cancel_many_jobs(self, jobs: Iterable[object]) -> int:  # noqa: ARG002
        """Refuse to.

        Raises:
            RuntimeError: Always.
        """
        raise offline_error("cancel_many_jobs")

    @property
    def _signals(self) -> Sender:
        return Sender(store=self._notebook, new_id=self._notebook.new_id)


def to_report(
    run: RecordedRun,
    room: RecordedRoom,
    notebook: Notebook,
    *,
    worker: str,
    attempt: int,
    result: object,
    result_text: str,
    error: BaseException | None,
    notes: Iterable[str] = (),
) -> RerunReport:
    """Tell what became of a rerun.

    Args:
        run: The run.
        room: The room in which it waited.
        notebook: What it would have written.
        worker: The worker that was run.
        attempt: The attempt that it was run as.
        result: What `process` returned.
        result_text: The same in words.
        error: What it raised.
        notes: What else there is to know.
    """
    divergence = room.divergence
    if divergence is not None or room.stopped_at is not None:
        # Whatever process made of it on its way out: it was ended.
        result, error = None, None
    elif (missed := room.missed) is None:
        pass
    elif error is not None and (run.closed is None or run.cause is Cause.DISCARDED):
        # What failed then may have been just this, in an attempt that left no events.
        notes = [*notes, f"It raised before it asked for {missed}. An attempt that failed there would leave no events."]
    else:
        did = f"returned {result_text}" if error is None else f"raised {error_text(error)}"
        divergence = f"{did}, without asking for {missed}"
    if divergence is not None:
        ended = RerunEnd.DIVERGED
    elif room.stopped_at is not None:
        ended = RerunEnd.STOPPED
    else:
        ended = RerunEnd.RETURNED if error is None else RerunEnd.RAISED
    closed = run.closed
    return RerunReport(
        worker=worker,
        job_id=run.job_id,
        run=run.number,
        attempt=attempt,
        ended=ended,
        result=result,
        error=error,
        stopped_at=room.stopped_at,
        divergence=divergence,
        awaits=tuple(room.asked),
        unasked=room.unasked,
        signals=tuple(notebook.signals),
        jobs=tuple(notebook.jobs),
        notes=(*notes, *room.notes),
        cause=run.cause,
        cause_version=None if closed is None else closed.version,
        result_text=result_text,
    )
