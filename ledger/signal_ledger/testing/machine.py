"""A state machine that does the same to several stores at once, and demands the same of them.

It plays engines, workers, signallers and operators with a clock of its own: deliveries with keys and lists, in
transactions of callers, too; takes by the newest and by superseded executions, snoozes, failures, cancels, retries,
rescues, crashes and rebuilding. After each step every store must have given the same answer, and hold the same events
and states.
"""

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from signal_ledger.decisions import GotSignal, GotTimeout
from signal_ledger.errors import KeyConflict
from signal_ledger.evolve import fold
from signal_ledger.jobs import JobState
from signal_ledger.names import NO_EXECUTION, Execution, JobId
from signal_ledger.outbox import StoredSignal
from signal_ledger.receipt import Receipt
from signal_ledger.stored import to_stored
from signal_ledger.testing.bench import Bench, take
from signal_ledger.testing.comparing import ComparingMachine, history_of

REACHED = (
    "woken",
    "live",
    "buffered",
    "duplicate",
    "ignored",
    "conflict",
    "GotSignal",
    "GotTimeout",
    "Waiting",
    "MustSnooze",
    "Stale",
    "CancelRequested",
    "OutOfOrder",
    "replayed",
    "late signal kept",
    "zombie refused",
    "slept",
    "found a signal when falling asleep",
    "second run",
    "crash",
    "stored",
    "rolled back",
    "relayed",
    "refused at relay",
)
"""What a run of the machine must have met to mean anything."""

_CHANNELS = st.sampled_from([None, None, None, "votes"])
_KEYS = st.sampled_from([None, None, "k1", "k2"])
_WAIT_FOR = st.sampled_from([None, 5.0, 60.0])
# What becomes of the job before an execution acts: mostly it is made to execute, else little would ever happen.
_BEFORE = st.sampled_from(["as it is", "fetched", "retried", "retried", "as a zombie"])
_JOBS_MAX = 5


class LedgerMachine(ComparingMachine):
    """Plays with jobs that wait for signals. Subclass it with `open_benches`."""

    jobs: Bundle[JobId] = Bundle("jobs")
    to_reach: ClassVar[tuple[str, ...]] = REACHED

    def __init__(self) -> None:
        super().__init__()
        self._newest: dict[JobId, Execution] = {}
        self._touched: set[JobId] = set()
        self._inserted = 0
        self._stored: set[JobId] = set()

    @initialize(target=jobs)
    def open(self) -> MultipleResults[JobId]:
        """Begin with empty stores and a few jobs."""
        self.benches = self._run(self.open_benches())
        return multiple(*[self._insert(None, 20) for _ in range(2)])

    # Jobs

    @precondition(lambda self: self._inserted < _JOBS_MAX)
    @rule(target=jobs, scheduled_in=st.sampled_from([None, 5.0]), max_attempts=st.sampled_from([1, 20]))
    def insert(self, scheduled_in: float | None, max_attempts: int) -> JobId:
        """Enqueue a job."""
        return self._insert(scheduled_in, max_attempts)

    def _insert(self, scheduled_in: float | None, max_attempts: int) -> JobId:
        self._inserted += 1
        return self._same(lambda bench: bench.insert(scheduled_in=scheduled_in, max_attempts=max_attempts))

    @rule(
        job_id=jobs,
        before=_BEFORE,
        state=st.sampled_from([*JobState.__members__.values()]).filter(
            lambda state: state not in (JobState.AVAILABLE, JobState.EXECUTING, JobState.SUSPENDED)
        ),
        delay=st.sampled_from([0, 5]),
    )
    def finish(self, job_id: JobId, before: str, state: JobState, delay: float) -> None:
        """End an execution."""
        token = self._token(job_id, before)
        self._same(lambda bench: bench.finish(job_id, token, state, delay=delay))

    @rule(job_id=jobs, deed=st.sampled_from(["cancel", "retry", "retry", "retry", "delete"]))
    def operate(self, job_id: JobId, deed: str) -> None:
        """Do to a job what operators do."""
        self._touched.add(job_id)
        match deed:
            case "cancel":
                self._same(lambda bench: bench.cancel(job_id))
            case "retry":
                self._same(lambda bench: bench.retry(job_id))
            case _:
                self._same(lambda bench: bench.delete(job_id))

    # Waits

    @rule(
        job_id=jobs,
        before=_BEFORE,
        channel=_CHANNELS,
        back=st.sampled_from([0, 0, 0, 0, 1, -1]),
        wait_for=_WAIT_FOR,
        in_place=st.booleans(),
        window=st.booleans(),
    )
    def take(
        self,
        job_id: JobId,
        before: str,
        channel: str | None,
        back: int,
        wait_for: float | None,
        in_place: bool,  # noqa: FBT001 - hypothesis passes it by name
        window: bool,  # noqa: FBT001
    ) -> None:
        """Ask for a wait: mostly the next one, sometimes one that has ended or one out of turn."""
        token = self._token(job_id, before)
        ordinal = max(1, self._next_ordinal(job_id, channel or "") - back)
        length = self._history_length(job_id)
        reply = self._same(
            lambda bench: take(
                bench,
                job_id,
                token,
                channel=channel or "",
                ordinal=ordinal,
                wait_for=wait_for,
                in_place=in_place and wait_for is not None,
                window=window,
            )
        )
        self._note_take(job_id, reply, before, is_replay=length == self._history_length(job_id))

    @rule(job_id=jobs, before=_BEFORE, channel=_CHANNELS, wait_for=_WAIT_FOR)
    def sleep(self, job_id: JobId, before: str, channel: str | None, wait_for: float | None) -> None:
        """Let an execution end in a wait."""
        token = self._token(job_id, before)
        ordinal = self._next_ordinal(job_id, channel or "")
        slept = self._same(
            lambda bench: bench.sleep(job_id, token, channel=channel or "", ordinal=ordinal, wait_for=wait_for)
        )
        if slept:
            self.reached["slept"] += 1
            seen = self._same(lambda bench: bench.job(job_id))
            if seen is not None and seen.state is JobState.AVAILABLE:
                self.reached["found a signal when falling asleep"] += 1

    @rule(job_id=jobs, channel=_CHANNELS, wait_for=_WAIT_FOR)
    def go_to_sleep(self, job_id: JobId, channel: str | None, wait_for: float | None) -> None:
        """The way of most waits: picked up, awaited, asleep."""
        self.take(job_id, "retried", channel, 0, wait_for, False, True)  # noqa: FBT003
        self.sleep(job_id, "as it is", channel, wait_for)

    @rule(job_id=jobs, channel=_CHANNELS, then=st.sampled_from(["signalled", "cancelled", "asleep"]))
    def wait_live(self, job_id: JobId, channel: str | None, then: str) -> None:
        """A live wait, and what ends it."""
        self.take(job_id, "retried", channel, 0, 60.0, False, True)  # noqa: FBT003
        match then:
            case "signalled":
                self.send(job_id, 1, channel, None)
            case "cancelled":
                self.operate(job_id, "cancel")
            case _:
                self.sleep(job_id, "as it is", channel, 60.0)
        self.take(job_id, "as it is", channel, 0, None, False, True)  # noqa: FBT003

    @rule(job_id=jobs, channel=_CHANNELS, then=st.sampled_from([JobState.RETRYABLE, JobState.SCHEDULED]))
    def replay(self, job_id: JobId, channel: str | None, then: JobState) -> None:
        """An execution gets its signal, then fails or snoozes; the next one asks for the same wait again."""
        self.send(job_id, 0, channel, None)
        self.take(job_id, "retried", channel, 0, None, False, True)  # noqa: FBT003
        self.finish(job_id, "as it is", then, 0)
        self.take(job_id, "retried", channel, 1, None, False, True)  # noqa: FBT003

    @rule(job_id=jobs, channel=_CHANNELS)
    def oversleep(self, job_id: JobId, channel: str | None) -> None:
        """A deadline passes, then the signal comes, then the job wakes."""
        self.go_to_sleep(job_id, channel, 5.0)
        self.time_passes(61)
        self.send(job_id, 1, channel, None)
        self.take(job_id, "fetched", channel, 0, None, False, True)  # noqa: FBT003

    # Signals

    @rule(job_id=jobs, payload=st.integers(0, 1), channel=_CHANNELS, key=_KEYS)
    def send(self, job_id: JobId, payload: int, channel: str | None, key: str | None) -> None:
        """Signal a job."""
        self._touched.add(job_id)
        answer = self._same(lambda bench: _or_conflict(bench.signaller.send(job_id, payload, channel=channel, key=key)))
        self._note_receipts([answer])

    @rule(job_ids=st.lists(jobs, min_size=1, max_size=4), payload=st.integers(0, 1), key=_KEYS)
    def send_all(self, job_ids: list[JobId], payload: int, key: str | None) -> None:
        """Signal several jobs, maybe one of them twice."""
        self._touched.update(job_ids)
        answer = self._same(lambda bench: _or_conflict(bench.signaller.send_all(job_ids, payload, key=key)))
        self._note_receipts(answer if isinstance(answer, list) else [answer])

    @rule(job_id=jobs)
    def send_and_repeat(self, job_id: JobId) -> None:
        """Signal a job, lose the reply, and try again as the library does."""
        self._touched.add(job_id)

        async def send_twice(bench: Bench) -> tuple[Receipt, list[Receipt]]:
            return await bench.signaller.send(job_id, "again"), await bench.signaller.repeat_last()

        first, [second] = self._same(send_twice)
        assert first == second

    @rule(
        job_ids=st.lists(jobs, min_size=1, max_size=3),
        payload=st.integers(0, 1),
        channel=_CHANNELS,
        key=_KEYS,
        commits=st.sampled_from([True, True, True, False]),
        relays=st.booleans(),
    )
    def store(
        self,
        job_ids: list[JobId],
        payload: int,
        channel: str | None,
        key: str | None,
        commits: bool,  # noqa: FBT001 - hypothesis passes it by name
        relays: bool,  # noqa: FBT001
    ) -> None:
        """Signal in a transaction of the caller's own, which commits or does not; relay at once or some time later."""

        async def store(bench: Bench) -> list[Receipt]:
            receipts: list[Receipt] = []
            with suppress(_RollBack):
                async with bench.transaction() as conn:
                    receipts = await bench.signaller.store_all(conn, job_ids, payload, channel=channel, key=key)
                    if not commits:
                        raise _RollBack
            return receipts

        self._same(store)
        self._stored.update(job_ids)
        self.reached["stored" if commits else "rolled back"] += 1
        if relays:
            self.relay()

    @precondition(lambda self: self._stored)
    @rule()
    def relay(self) -> None:
        """Deliver what callers have stored."""
        left = len(self._same(_outbox))
        self._same(lambda bench: bench.relay())
        refused = len(self._same(_outbox))
        self.reached["relayed"] += left - refused
        self.reached["refused at relay"] += refused
        self._touched |= self._stored
        self._stored.clear()

    # Time and faults

    @rule(seconds=st.sampled_from([0.000001, 1, 5, 60, 61, -30]))
    def time_passes(self, seconds: float) -> None:
        """Move the clock; back, too, as real ones sometimes go."""
        for bench in self.benches:
            bench.clock.advance(seconds)

    @rule(fault=st.sampled_from(["crash", "rescue", "rescue", "rebuild", "prune"]))
    def disturb(self, fault: str) -> None:
        """Let happen what happens to all jobs at once. Whatever was answered before a crash must still be there."""
        self._touched.update(self._newest)
        match fault:
            case "crash":
                self._crash()
            case "rescue":
                self._same(lambda bench: bench.rescue())
            case "rebuild":
                self._same(lambda bench: bench.store.rebuild())
            case _:
                self._same(lambda bench: bench.prune())

    # What must hold

    @invariant()
    def stores_hold_the_same_events_and_states(self) -> None:
        """The log of every store is that of the reference, and its projection is the fold of it."""
        for job_id in sorted(self._touched):
            history = self._same(lambda bench, of=job_id: history_of(bench, of))  # type: ignore[misc]
            state = self._same(lambda bench, of=job_id: bench.store.state(of))  # type: ignore[misc]
            self._same(lambda bench, of=job_id: bench.job(of))  # type: ignore[misc]
            assert state == fold(job_id, history)
            for recorded in history:
                row = to_stored(
                    recorded.event, job_id=job_id, version=recorded.version, recorded_at=recorded.recorded_at
                )
                assert row.checksum == recorded.checksum
        self._touched.clear()

    @invariant()
    def stores_hold_the_same_outbox(self) -> None:
        """What is to be relayed, and what was refused, is the same everywhere."""
        self._same(_outbox)

    # Inside

    def _token(self, job_id: JobId, before: str) -> Execution:
        """The token of a job's newest execution, after what comes before; or of the one before it."""
        self._touched.add(job_id)
        if before == "retried":
            self._same(lambda bench: bench.retry(job_id))
        if before in ("retried", "fetched"):
            fetched = self._same(lambda bench: bench.fetch(job_id))
            self._newest[job_id] = fetched or self._newest.get(job_id, NO_EXECUTION)
        newest = self._newest.get(job_id, NO_EXECUTION)
        return Execution(newest - 1) if before == "as a zombie" else newest

    def _history_length(self, job_id: JobId) -> int:
        return len(self._run(self.benches[0].store.history(job_id)))

    def _next_ordinal(self, job_id: JobId, channel: str) -> int:
        history = self._run(self.benches[0].store.history(job_id))
        run = fold(job_id, history).open_run
        ends = [
            recorded
            for recorded in history
            if recorded.kind in ("consumed", "timed_out")
            and recorded.run == run
            and (recorded.channel or "") == channel
        ]
        return len(ends) + 1

    def _note_take(self, job_id: JobId, reply: object, before: str, *, is_replay: bool) -> None:
        name = type(reply).__name__
        self.reached[name] += 1
        state = self._run(self.benches[0].store.state(job_id))
        if isinstance(reply, GotSignal | GotTimeout) and is_replay:
            self.reached["replayed"] += 1
        elif isinstance(reply, GotTimeout) and state.inboxes:
            self.reached["late signal kept"] += 1
        if name == "Stale" and before == "as a zombie":
            self.reached["zombie refused"] += 1
        if state.run > 1:
            self.reached["second run"] += 1

    def _note_receipts(self, answers: list[object]) -> None:
        for answer in answers:
            self.reached[answer.outcome if isinstance(answer, Receipt) else "conflict"] += 1


async def _outbox(bench: Bench) -> list[StoredSignal]:
    """The outbox without its places, which each store counts in its own way."""
    return [replace(signal, cursor="") for signal in await bench.store.outbox(limit=1000, after=None)]


async def _or_conflict(sending: Awaitable[object]) -> object:
    """A conflict is an answer, too: the same must come from every store."""
    try:
        return await sending
    except KeyConflict as conflict:
        return (conflict.job_id, conflict.key, conflict.signal_id, conflict.difference)


class _RollBack(Exception):  # noqa: N818 - no error: it ends a transaction
    pass
