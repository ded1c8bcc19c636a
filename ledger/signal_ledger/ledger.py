"""The ledger: signals from a process without an engine, and the questions of operators and auditors."""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import batched

from signal_ledger.arguments import to_channel, to_job_id, to_name, to_optional_text
from signal_ledger.delivery import CanSignal, HasId, Sender
from signal_ledger.events import Kind
from signal_ledger.evolve import evolve, fold
from signal_ledger.history import History, ReplayStep
from signal_ledger.instants import require_instant
from signal_ledger.names import DEFAULT_CHANNEL
from signal_ledger.offline import refuse_offline
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, LedgerStore, WaitingJob
from signal_ledger.recorded import RecordedEvent
from signal_ledger.stats import COUNTED, Stats, Tally, to_recorded
from signal_ledger.steps import SeenStep, steps_to_retry
from signal_ledger.verify import FINDINGS_MAX, PROGRESS_EVERY, Progress, Report, verify
from signal_ledger.wait_state import WaitState

_PAGE = 500
_LIMIT_MAX = 10_000
_STREAMS_AT_ONCE = 1000


class Ledger(CanSignal):
    """The log of a database and its projection. Get one from `signal_ledger.open_ledger` or ``engine.ledger``.

    Args:
        store: Where the log is kept.
        sender: Sends signals to it; None for a ledger that can only be read.
    """

    def __init__(self, store: LedgerStore, sender: Sender | None) -> None:
        self._store = store
        self._sender = sender

    @property
    def _signals(self) -> Sender:
        if self._sender is None:
            raise RuntimeError("signal: expected a ledger that can be written, this one was opened read-only")
        return self._sender

    async def history(self, job_id: int | HasId) -> list[RecordedEvent]:
        """Return the recorded events of a job, in the order of their versions; empty for a job without any.

        Args:
            job_id: The job, also one that has been pruned or deleted.
        """
        return await self._store.history(to_job_id(job_id))

    async def replay(self, job_id: int | HasId) -> AsyncGenerator[ReplayStep, None]:
        """Step through the events of a job, each with the job's wait state after it.

        The events are read page by page, so a long history takes no more memory than a short one. As for `events`,
        the last ones may not be seen yet while a transaction that has written is still open on PostgreSQL.

        Args:
            job_id: The job, also one that has been pruned or deleted.

        Example:
            >>> import asyncio
            >>> from oban import Job
            >>> from signal_ledger import lite
            >>>
            >>> async def main():
            ...     async with lite("sqlite:///signals.db", queues={}) as engine:
            ...         job = await engine.enqueue(Job("shop.Purchase"))
            ...         for number in range(2):
            ...             await engine.signal(job, number, channel="votes")
            ...         async for event, state in engine.ledger.replay(job):
            ...             print(event.version, event.kind, state.pending)
            >>>
            >>> asyncio.run(main())
            1 delivered {'votes': 1}
            2 delivered {'votes': 2}
        """
        state = WaitState(job_id=to_job_id(job_id))
        async for recorded in self.events(job_id=state.job_id):
            state = evolve(state, recorded.event, version=recorded.version, recorded_at=recorded.recorded_at)
            yield ReplayStep(recorded, state)

    async def export(self, job_id: int | HasId) -> History:
        """Return the history of a job as a value, with the job's row: to save it, and to run its worker again.

        The row is None if the job has been pruned or deleted, or if this ledger's database role may not read Oban's
        table.

        Args:
            job_id: The job.

        Example:
            See `History`.
        """
        job = to_job_id(job_id)
        # The row first: of what happens in between, the events tell.
        row = await self._store.job(job)
        return History(job_id=job, events=tuple(await self._store.history(job)), job=row)

    async def state(self, job_id: int | HasId, *, at: datetime | None = None, cursor: str | None = None) -> WaitState:
        """Return a job's wait state, now or as it was.

        Args:
            job_id: The job; one without events has an idle state of version 0.
            at: As of a time: the events recorded by then are folded. Marked ``provisional`` if an event of that time
                may still be recorded.
            cursor: As of a cursor: the events up to and including the one that has it.

        Raises:
            ValueError: Both ``at`` and ``cursor`` are given, ``at`` has no time zone, or the cursor is none.
        """
        job = to_job_id(job_id)
        if at is not None and cursor is not None:
            raise ValueError("state: expected at= or cursor=, got both")
        if cursor is not None:
            return fold(job, await self._store.history(job, cursor=cursor))
        if at is None:
            return await self._store.state(job)
        instant = require_instant("at", at)
        # Asked first: what is settled before the history is read is complete in it.
        is_settled = await self._store.is_settled(instant)
        known = []
        for recorded in await self._store.history(job):
            if recorded.recorded_at > instant:
                break
            known.append(recorded)
        return replace(fold(job, known), provisional=not is_settled)

    async def waiting(
        self,
        *,
        channel: str | None = None,
        deadline_before: datetime | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[WaitingJob]:
        """Return who waits, since when and until when; the longest-waiting first.

        Args:
            channel: Only waits on this channel; "" is the default channel, None any.
            deadline_before: Only waits whose deadline is before this instant.
            limit: At most so many rows, 1 to 10,000.
            after: The cursor of the last row of the page before.
        """
        return await self._store.waiting(
            channel=_channel_filter(channel),
            deadline_before=None if deadline_before is None else require_instant("deadline_before", deadline_before),
            limit=_limit(limit),
            after=after,
        )

    async def waits_of(self, job_ids: Sequence[int]) -> list[WaitingJob]:
        """Return which of these jobs wait, since when and until when; the longest-waiting first.

        Args:
            job_ids: The jobs.
        """
        wanted = [to_job_id(job_id) for job_id in job_ids]
        return await self._store.waits_of(wanted) if wanted else []

    async def steps(self, workflow_id: str) -> list[SeenStep]:
        """Return the steps of a workflow with what their jobs do now, in the order of their jobs.

        Args:
            workflow_id: The workflow; none is returned if there is no such one.
        """
        return await self._store.steps(to_name("workflow_id", workflow_id))

    async def retry_steps(self, workflow_id: str) -> int:
        """Take up the failed steps of a workflow again; see `Workflow.retry`. Return how many.

        Raises:
            LookupError: There is no such workflow.
            RuntimeError: The ledger was opened read-only.
        """
        refuse_offline("retry_steps")
        if self._sender is None:
            raise RuntimeError("retry_steps: expected a ledger that can be written, this one was opened read-only")
        seen = await self.steps(workflow_id)
        if not seen:
            raise LookupError(f"workflow: expected the id of one that was enqueued, found none with {workflow_id!r}")
        names = steps_to_retry(seen)
        return await self._store.retry_steps(workflow_id, names) if names else 0

    async def outbox(self, *, limit: int = 100, after: str | None = None) -> list[StoredSignal]:
        """Return the signals that were stored with ``conn=`` and are not relayed, or were refused at relay.

        Those refused stay, the oldest first; those that were delivered, or are duplicates, are gone from here.

        Args:
            limit: At most so many rows, 1 to 10,000.
            after: The cursor of the last row of the page before.
        """
        return await self._store.outbox(limit=_limit(limit), after=after)

    async def events(
        self,
        *,
        after: str | None = None,
        job_id: int | HasId | None = None,
        kinds: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        source: str | None = None,
        channel: str | None = None,
    ) -> AsyncGenerator[RecordedEvent, None]:
        """Iterate over the log in its order, up to its present end.

        Args:
            after: A cursor: only events behind it.
            job_id: Only this job's.
            kinds: Only these kinds, such as ``{"delivered", "timed_out"}``.
            since: Only those recorded at this instant or later.
            until: Only those recorded before this instant.
            source: Only deliveries with this source.
            channel: Only this channel's; "" is the default channel, None any.

        Raises:
            ValueError: A kind is none, an instant has no time zone, or the cursor is none.
        """
        async for recorded in self._matching(
            EventFilter(
                after=after,
                job_id=None if job_id is None else to_job_id(job_id),
                kinds=_kinds(kinds),
                since=None if since is None else require_instant("since", since),
                until=None if until is None else require_instant("until", until),
                source=to_optional_text("source", source),
                channel=_channel_filter(channel),
            )
        ):
            yield recorded

    async def _matching(self, wanted: EventFilter) -> AsyncGenerator[RecordedEvent, None]:
        page = await self._store.page(wanted, _PAGE)
        while page:
            for recorded in page:
                yield recorded
            wanted = replace(wanted, after=page[-1].cursor)
            page = await self._store.page(wanted, _PAGE) if len(page) == _PAGE else []

    async def follow(
        self,
        after: str | None = None,
        *,
        job_id: int | HasId | None = None,
        kinds: Collection[str] | None = None,
        source: str | None = None,
        channel: str | None = None,
    ) -> AsyncGenerator[RecordedEvent, None]:
        """Follow the log as it grows, without gaps (promise L4). Never ends by itself.

        Args:
            after: A cursor to continue behind; None begins with the first event, ``"end"`` behind the one that is the
                newest when the iteration begins.
            job_id: Only the events of this job, as for `events`; and so are those that follow.
            kinds: Only these kinds.
            source: Only deliveries with this source.
            channel: Only this channel's; "" is the default channel, None any.

        Raises:
            ValueError: A kind is none, or the cursor is none.
        """
        wanted = EventFilter(
            job_id=None if job_id is None else to_job_id(job_id),
            kinds=_kinds(kinds),
            source=to_optional_text("source", source),
            channel=_channel_filter(channel),
        )
        wanted = replace(wanted, after=await self._store.end() if after == "end" else after)
        while True:
            mark = self._store.mark()
            async for recorded in self._matching(wanted):
                wanted = replace(wanted, after=recorded.cursor)
                yield recorded
            await self._store.changed(mark)

    async def end(self) -> str | None:
        """Return the cursor of the newest event that a follower would have seen by now; None for an empty log."""
        return await self._store.end()

    async def stats(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        channel: str | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> Stats:
        """Count what an operator asks about: open waits, time to decision, time-outs, late signals.

        With ``since`` it reads the streams of the jobs that something was recorded of from then on; without, the whole
        log, at one moment. Either takes memory for the decisions that it counts, some 80 bytes each, and for the ids of
        the jobs in the first case. The open waits are those of now.

        Args:
            since: Count what was recorded at this instant or later.
            until: Count what was recorded before this instant.
            channel: Count what is on this channel; "" is the default channel, None any.
            progress: Called after every 10,000 events, and at the end. What it raises ends the work.

        Raises:
            ValueError: An instant has no time zone.
            SchemaError: An event cannot be read; `verify` tells which.

        Example:
            >>> import asyncio
            >>> from oban import Job
            >>> from signal_ledger import lite
            >>>
            >>> async def main():
            ...     async with lite("sqlite:///signals.db", queues={}) as engine:
            ...         await engine.signal(await engine.enqueue(Job("shop.Purchase")), "approved")
            ...         stats = await engine.ledger.stats()
            ...         print(dict(stats.delivered), stats.time_to_decision.count)
            >>>
            >>> asyncio.run(main())
            {<DeliveryOutcome.BUFFERED: 'buffered'>: 1} 0
        """
        stored_channel = _channel_filter(channel)
        tally = Tally(
            since=None if since is None else require_instant("since", since),
            until=None if until is None else require_instant("until", until),
            channel=stored_channel,
        )
        total = 0
        streams = self._all_events() if since is None else self._events_of_jobs(since, until, stored_channel)
        async for recorded, total in streams:
            tally.add(recorded)
            if progress is not None and tally.events % PROGRESS_EVERY == 0:
                progress(Progress(events=tally.events, total=total, streams=tally.streams, found=0))
        if progress is not None:
            progress(Progress(events=tally.events, total=tally.events, streams=tally.streams, found=0))
        async for wait in self._all_waits(stored_channel):
            tally.add_wait(wait)
        return tally.result()

    async def _all_events(self) -> AsyncGenerator[tuple[RecordedEvent, int], None]:
        """Yield the whole log, stream after stream, each event with about how many there are."""
        async with self._store.snapshot() as snapshot:
            total = await snapshot.newest_position()
            async for position, row in snapshot.rows():
                yield to_recorded(row, position), total

    async def _events_of_jobs(
        self, since: datetime, until: datetime | None, channel: str | None
    ) -> AsyncGenerator[tuple[RecordedEvent, int], None]:
        """Yield the streams of the jobs of which something that is counted was recorded in a time."""
        counted = self.events(kinds=COUNTED, since=since, until=until, channel=channel)
        job_ids = sorted({recorded.job_id async for recorded in counted})
        async with self._store.snapshot() as snapshot:
            for some in batched(job_ids, _STREAMS_AT_ONCE):
                async for position, row in snapshot.rows(some):
                    yield to_recorded(row, position), 0

    async def _all_waits(self, channel: str | None) -> AsyncGenerator[WaitingJob, None]:
        after = None
        while page := await self._store.waiting(channel=channel, deadline_before=None, limit=_LIMIT_MAX, after=after):
            for wait in page:
                yield wait
            after = page[-1].cursor

    async def verify(
        self, *, progress: Callable[[Progress], object] | None = None, findings_max: int = FINDINGS_MAX
    ) -> Report:
        """Check the whole log and its projection, at one moment.

        It reads the log from its first stream to its last, then once more beside what finds events by their times, in
        memory that does not grow with it.

        Args:
            progress: Called after every 10,000 events, and at the end. What it raises ends the work.
            findings_max: The report keeps at most so many findings; it counts all. 0 or more.

        Returns:
            A report with ``ok`` and ``findings``; each finding names the job, the version and what was expected.

        Raises:
            ValueError: ``findings_max`` is negative, or no int.

        Example:
            >>> import asyncio
            >>> from signal_ledger import lite
            >>>
            >>> async def main():
            ...     async with lite("sqlite:///signals.db", queues={}) as engine:
            ...         await engine.ledger.verify(progress=lambda done: print(done.events, "of about", done.total))
            >>>
            >>> asyncio.run(main())
            0 of about 0
        """
        if type(findings_max) is not int or findings_max < 0:
            raise ValueError(f"findings_max: expected an int of 0 or more, got {findings_max!r}")
        async with self._store.snapshot() as snapshot:
            return await verify(snapshot, progress=progress, findings_max=findings_max)

    async def rebuild(self, *, progress: Callable[[int], object] | None = None) -> int:
        """Fold every stream, and every workflow, anew and store the results, while the system runs.

        Args:
            progress: Called with how many streams were folded so far, after some hundred of them. What it raises ends
                the work; what was folded stays.

        Returns:
            How many streams there are.

        Raises:
            RuntimeError: The ledger was opened read-only.
        """
        refuse_offline("rebuild")
        if self._sender is None:
            raise RuntimeError("rebuild: expected a ledger that can be written, this one was opened read-only")
        return await self._store.rebuild(progress=progress)


def _limit(limit: int) -> int:
    if type(limit) is not int or not 1 <= limit <= _LIMIT_MAX:
        raise ValueError(f"limit: expected 1 to {_LIMIT_MAX}, got {limit!r}")
    return limit


def _channel_filter(channel: str | None) -> str | None:
    return channel if channel is None or channel == DEFAULT_CHANNEL else to_channel(channel)


def _kinds(kinds: Collection[str] | None) -> frozenset[Kind] | None:
    return None if kinds is None else frozenset(_kind(kind) for kind in kinds)


def _kind(kind: str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise ValueError(f"kinds: expected some of {', '.join(Kind)}, got {kind!r}") from None
