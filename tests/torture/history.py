"""A history: everything that was seen from outside during a run, and what was there in the end."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from signal_ledger.recorded import RecordedEvent
from signal_ledger.wait_state import WaitState

FOR_EVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A receipt."""

    job_id: int
    outcome: str
    signal_id: str | None
    version: int | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of `signal`, as the client saw it.

    Attributes:
        id: Its own name.
        signal: What it sends; a call that repeats another has the same. It is the source of the deliveries.
        began, ended: When; a call without an answer never ended, since it may still be carried out.
        answered: When the caller went on, with an answer or without; None if the process died before.
        began_at, answered_at: The same by the wall clock.
        lagged_s: For how long the caller itself stood still meanwhile: stopped, or without a processor.
        status: ``ok``, ``rolled back``, ``conflict``, ``unknown`` (no answer, or the process died), or ``error``.
        transaction: The caller's own transaction and the place in it, if it was sent with ``conn=``.
        timeout_s: What the caller allowed it to take.
    """

    id: str
    signal: str
    targets: tuple[int, ...]
    channel: str
    key: str | None
    digest: str
    bytes_digest: str
    began: int
    ended: float = FOR_EVER
    answered: int | None = None
    began_at: datetime
    answered_at: datetime | None = None
    lagged_s: float = 0.0
    status: str = "unknown"
    error: str | None = None
    receipts: tuple[Told, ...] = ()
    transaction: tuple[str, int] | None = None
    timeout_s: float = 30.0

    @property
    def took_s(self):
        """How long the caller waited; None if it died."""
        return None if self.answered is None else (self.answered - self.began) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Saw:
    """What an await gave to an execution.

    Attributes:
        outcome: ``signal`` or ``timeout``.
        digest: Of the payload.
        seen_at: The wall clock after it.
    """

    job_id: int
    execution: int
    channel: str
    ordinal: int
    outcome: str
    digest: str | None = None
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One await of a job's script; see `plan`."""

    channel: str
    wait_for: float | None = None
    window: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """A job's row in the end."""

    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A row of the outbox that was left."""

    signal_id: str
    job_id: int
    source: str | None
    refusal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A fault that was played, or what an operator did.

    Attributes:
        kind: Which.
        times: How often it happened.
        may_miss: Whether it is none at all at times, as an operator's who finds no such job.
    """

    kind: str
    times: int
    may_miss: bool = False


type Mark = tuple[int, int, str]
"""An event in a snapshot of the log: job, version, checksum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything.

    Attributes:
        calls: What clients did.
        saws: What workers saw.
        began: When each execution, a job's and its token, began.
        scripts: The awaits of each job, in order.
        log: The log in the end, in its order.
        snapshots: The log as it was read during the run, the oldest first.
        followed: The log as a follower got it, page by page.
        samples: Wait states that were read during the run.
        states: The stored projection in the end.
        jobs: The jobs that are left in the end.
        outbox: What is left in the outbox.
        verified: What the library's own `verify` found.
        ended_at: Waits with a deadline before this should have ended.
        leaks: What the surviving processes and the server held too much of.
        errors: What processes met that they should not.
        plays: The faults, in order.
        kinds: Which of them must have happened in a run as long as this one.
    """

    calls: list[Call] = field(default_factory=list)
    saws: list[Saw] = field(default_factory=list)
    began: dict[tuple[int, int], int] = field(default_factory=dict)
    scripts: dict[int, list[Step]] = field(default_factory=dict)
    log: list[RecordedEvent] = field(default_factory=list)
    snapshots: list[list[Mark]] = field(default_factory=list)
    followed: list[Mark] = field(default_factory=list)
    samples: list[WaitState] = field(default_factory=list)
    states: dict[int, WaitState] = field(default_factory=dict)
    jobs: dict[int, JobSeen] = field(default_factory=dict)
    outbox: list[Stored] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)
    ended_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    leaks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    plays: list[Play] = field(default_factory=list)
    kinds: tuple[str, ...] = ()

    def streams(self):
        """The log by job, each stream in the order of its versions."""
        streams = {}
        for recorded in self.log:
            streams.setdefault(recorded.job_id, []).append(recorded)
        for stream in streams.values():
            stream.sort(key=lambda recorded: recorded.version)
        return streams


def mark_of(recorded):
    """An event as a snapshot keeps it."""
    return (recorded.job_id, recorded.version, recorded.checksum)


def calls_of(records):
    """Join the records of one client process into its calls."""
    records = list(records)
    calls = {}
    for record in records:
        match record["what"]:
            case "invoked":
                calls[record["call"]] = Call(
                    id=record["call"],
                    signal=record["signal"],
                    targets=tuple(record["targets"]),
                    channel=record["channel"],
                    key=record["key"],
                    digest=record["digest"],
                    bytes_digest=record["bytes_digest"],
                    began=record["at"],
                    began_at=datetime.fromtimestamp(record["wall"], UTC),
                    transaction=None if record["transaction"] is None else tuple(record["transaction"]),
                    timeout_s=record["timeout_s"],
                )
            case "ended":
                calls[record["call"]] = replace(
                    calls[record["call"]],
                    ended=FOR_EVER if record["status"] == "unknown" else record["at"],
                    answered=record["at"],
                    answered_at=datetime.fromtimestamp(record["wall"], UTC),
                    status=record["status"],
                    error=record["error"],
                    receipts=tuple(Told(**told) for told in record["receipts"]),
                )
            case _:
                pass
    lags = [(record["at"] - record["lag"], record["at"]) for record in records if record["what"] == "lagged"]
    return [replace(call, lagged_s=_lagged_s(call, lags)) for call in calls.values()]


def _lagged_s(call, lags):
    """The part of a call in which its process stood still."""
    if call.answered is None:
        return 0.0
    return sum(max(0, min(ends, call.answered) - max(begins, call.began)) for begins, ends in lags) / 1e9


def began_of(records):
    """When the executions of a worker process began."""
    return {(record["job"], record["execution"]): record["at"] for record in records if record["what"] == "began"}


def saws_of(records):
    """Pick out what a worker process saw."""
    return [
        Saw(
            job_id=record["job"],
            execution=record["execution"],
            channel=record["channel"],
            ordinal=record["ordinal"],
            outcome=record["outcome"],
            digest=record["digest"],
            seen_at=datetime.fromtimestamp(record["wall"], UTC),
        )
        for record in records
        if record["what"] == "saw"
    ]
