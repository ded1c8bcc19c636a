"""The reference store: everything in memory, every rule as the core states it.

It keeps nothing when the process ends. The other stores are compared to it, and tests of applications can run on it.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from signal_ledger.causes import Cause
from signal_ledger.commands import Command, Deliver, Take
from signal_ledger.cursors import cursor_place, cursor_position, cursor_wait, place_cursor, position_cursor, wait_cursor
from signal_ledger.decisions import DeliverReply, TakeRefusal, TakeReply
from signal_ledger.embedded.flow import RetrySteps
from signal_ledger.embedded.job_row import JobRow, NewJob, inserted
from signal_ledger.embedded.operations import AddNode, SeeSteps
from signal_ledger.embedded.unit import EmbeddedUnit
from signal_ledger.events import Closed, Planned
from signal_ledger.evolve import fold
from signal_ledger.facts import Facts, look_up
from signal_ledger.jobs import JobState, JobView
from signal_ledger.names import JobId, SignalId, public_channel
from signal_ledger.operations import DeliverCall, TakeCall
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, StoredStep, WaitingJob, to_waiting_job
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.steps import SeenStep, Step, see
from signal_ledger.stored import StoredEvent
from signal_ledger.story import fold_workflow
from signal_ledger.turns import give_way
from signal_ledger.unit import Operation
from signal_ledger.wait_state import Status, WaitState

_STAGEABLE = (JobState.SCHEDULED, JobState.RETRYABLE)


@dataclass(slots=True)
class _Tables:
    rows: list[StoredEvent] = field(default_factory=list)
    events: list[RecordedEvent] = field(default_factory=list)
    streams: defaultdict[JobId, list[RecordedEvent]] = field(default_factory=lambda: defaultdict(list))
    states: dict[JobId, WaitState] = field(default_factory=dict)
    jobs: dict[JobId, JobRow] = field(default_factory=dict)
    repairs: dict[JobId, str] = field(default_factory=dict)
    outbox: dict[int, tuple[StoredSignal, Deliver]] = field(default_factory=dict)
    steps: dict[tuple[str, str], Step] = field(default_factory=dict)
    edges: dict[tuple[str, str, str], Cause | None] = field(default_factory=dict)
    traces: dict[tuple[JobId, SignalId], tuple[str, datetime]] = field(default_factory=dict)
    last_id: int = 0
    last_node: int = 0
    last_place: int = 0

    def store(self, delivery: Deliver, stored_at: datetime) -> None:
        """Put a signal into the outbox."""
        self.last_place += 1
        signal = StoredSignal(
            signal_id=delivery.signal_id,
            job_id=delivery.job_id,
            channel=public_channel(delivery.channel),
            key=delivery.key,
            source=delivery.source,
            stored_at=stored_at,
            refusal=None,
            cursor=place_cursor(self.last_place),
        )
        self.outbox[self.last_place] = signal, delivery


class MemoryTransaction:
    """A caller's transaction on a store in memory, for ``conn=``. See `MemoryStore.begin`."""

    def __init__(self) -> None:
        self.stored: list[tuple[Deliver, datetime]] = []


class MemoryUnit:
    """A transaction on the tables; see `signal_ledger.embedded.unit.EmbeddedUnit`."""

    def __init__(self, tables: _Tables, now: datetime) -> None:
        self._tables = tables
        self._now = now

    @property
    def now(self) -> datetime:
        return self._now

    # The log

    def view(self, job_id: JobId) -> JobView | None:
        row = self._tables.jobs.get(job_id)
        return None if row is None else row.view

    def state(self, job_id: JobId) -> WaitState:
        stored = self._tables.states.get(job_id)
        return fold(job_id, self._tables.streams[job_id]) if stored is None else stored

    def facts(self, command: Command, state: WaitState) -> Facts:
        return look_up(self._tables.streams[command.job_id], state, command)

    def append(self, rows: Sequence[StoredEvent], state: WaitState) -> None:
        for row in rows:
            self._tables.rows.append(row)
            position = len(self._tables.rows)
            recorded = from_stored(row, position=position, cursor=position_cursor(position))
            self._tables.events.append(recorded)
            self._tables.streams[recorded.job_id].append(recorded)
        self._tables.states[state.job_id] = state

    def wake(self, job_id: JobId) -> None:
        self.save(self._tables.jobs[job_id].available(self._now))

    def note_trace(self, job_id: JobId, signal_id: SignalId, traceparent: str) -> None:
        self._tables.traces[job_id, signal_id] = traceparent, self._now

    def take_trace(self, job_id: JobId, signal_id: SignalId) -> str | None:
        traceparent, _ = self._tables.traces.pop((job_id, signal_id), (None, None))
        return traceparent

    def forget_traces(self, before: datetime, limit: int) -> int:
        old = [key for key, (_, noted_at) in self._tables.traces.items() if noted_at < before][:limit]
        for key in old:
            del self._tables.traces[key]
        return len(old)

    def note_repair(self, job_id: JobId, reason: str) -> None:
        self._tables.repairs[job_id] = reason

    def repairs(self) -> Mapping[JobId, str]:
        return dict(self._tables.repairs)

    def clear_repair(self, job_id: JobId) -> None:
        self._tables.repairs.pop(job_id, None)

    # The jobs

    def insert(self, job: NewJob) -> JobRow:
        self._tables.last_id += 1
        row = inserted(JobId(self._tables.last_id), job, self._now)
        self.save(row)
        return row

    def job(self, job_id: JobId) -> JobRow | None:
        return self._tables.jobs.get(job_id)

    def preload(self, job_ids: Sequence[JobId], *, rows: bool = False) -> None:
        """Nothing needs to be read."""

    def save(self, row: JobRow) -> None:
        self._tables.jobs[row.id] = row

    def remove(self, job_id: JobId) -> None:
        del self._tables.jobs[job_id]

    def due(self, queues: Sequence[str], limit: int) -> list[JobRow]:
        rows = [row for row in self._scheduled(queues) if row.scheduled_at <= self._now]
        return sorted(rows, key=lambda row: (row.scheduled_at, row.id))[:limit]

    def next_due_at(self, queues: Sequence[str]) -> datetime | None:
        return min((row.scheduled_at for row in self._scheduled(queues)), default=None)

    def available(self, queue: str, limit: int) -> list[JobRow]:
        rows = [row for row in self._in_state(JobState.AVAILABLE) if row.queue == queue and not row.is_exhausted]
        return sorted(rows, key=lambda row: (row.priority, row.scheduled_at, row.id))[:limit]

    def queues(self) -> list[str]:
        runnable = (JobState.AVAILABLE, *_STAGEABLE)
        return sorted({row.queue for row in self._tables.jobs.values() if row.state in runnable})

    def executing_nodes(self) -> set[int]:
        return {row.node for row in self._in_state(JobState.EXECUTING) if row.node is not None}

    def executing_on(self, node: int) -> list[JobRow]:
        return [row for row in self._in_state(JobState.EXECUTING) if row.node == node]

    def cancels(self, job_ids: Sequence[JobId]) -> list[JobId]:
        return [row.id for row in self._in_state(JobState.EXECUTING) if row.cancel_requested and row.id in job_ids]

    def with_pending(self, job_ids: Sequence[JobId]) -> list[JobId]:
        return [job_id for job_id in job_ids if self.state(job_id).inboxes]

    def finished_before(self, instant: datetime, limit: int) -> list[JobId]:
        finished = [row.id for row in self._tables.jobs.values() if row.ended_at is not None and row.ended_at < instant]
        return sorted(finished)[:limit]

    # The steps

    def step_of(self, job_id: JobId) -> Step | None:
        return next((step for step in self._tables.steps.values() if step.job_id == job_id), None)

    def steps_named(self, workflow_id: str, names: Sequence[str]) -> list[Step]:
        steps = [self._tables.steps.get((workflow_id, name)) for name in names]
        return [step for step in steps if step is not None]

    def add_step(self, step: Step, deps: Sequence[str]) -> None:
        self.save_step(step)
        plan = step.plan
        self._tables.edges.update({(plan.workflow_id, dep, plan.name): None for dep in deps})

    def save_step(self, step: Step) -> None:
        self._tables.steps[step.plan.workflow_id, step.plan.name] = step

    def end_edges(self, workflow_id: str, dep: str, cause: Cause) -> list[str]:
        found = [
            edge for edge, ended_as in self._tables.edges.items() if edge[:2] == (workflow_id, dep) and ended_as is None
        ]
        self._tables.edges.update(dict.fromkeys(found, cause))
        return [name for _, _, name in found]

    def reopen_edges(self, workflow_id: str, names: Sequence[str]) -> None:
        edges = self._tables.edges
        edges.update({edge: None for edge in edges if edge[0] == workflow_id and {edge[1], edge[2]} <= set(names)})

    def edges_to(self, workflow_id: str, names: Sequence[str]) -> Mapping[str, Mapping[str, Cause | None]]:
        found: dict[str, dict[str, Cause | None]] = {}
        for (of_workflow, dep, name), ended_as in self._tables.edges.items():
            if of_workflow == workflow_id and name in names:
                found.setdefault(name, {})[dep] = ended_as
        return found

    def seen_steps(self, workflow_id: str) -> list[SeenStep]:
        steps = [step for step in self._tables.steps.values() if step.plan.workflow_id == workflow_id]
        edges = self.edges_to(workflow_id, [step.plan.name for step in steps])
        jobs = {step.job_id: self.job(step.job_id) for step in steps}
        return [
            see(step, None if (row := jobs[step.job_id]) is None else row.state.value, edges.get(step.plan.name, {}))
            for step in sorted(steps, key=lambda step: step.job_id)
        ]

    def has_stored(self) -> bool:
        return bool(self.stored(1, 1))

    def stored(self, rows_max: int, size_bytes_max: int) -> list[tuple[int, Deliver]]:
        found: list[tuple[int, Deliver]] = []
        size = 0
        for place, (signal, delivery) in self._tables.outbox.items():
            if len(found) == rows_max or size >= size_bytes_max:
                break
            if signal.refusal is None:
                found.append((place, delivery))
                size += len(delivery.payload)
        return found

    def settle(self, refusals: Mapping[int, str | None]) -> None:
        for place, refusal in refusals.items():
            signal, delivery = self._tables.outbox[place]
            if refusal is None:
                del self._tables.outbox[place]
            else:
                self._tables.outbox[place] = replace(signal, refusal=refusal), delivery

    def add_node(self, name: str) -> int:  # noqa: ARG002 - nobody asks for it here
        self._tables.last_node += 1
        return self._tables.last_node

    def _scheduled(self, queues: Sequence[str]) -> list[JobRow]:
        return [row for state in _STAGEABLE for row in self._in_state(state) if row.queue in queues]

    def _in_state(self, state: JobState) -> list[JobRow]:
        return [row for row in self._tables.jobs.values() if row.state is state]


class MemoryStore:
    """A ledger and a job table in memory; see `signal_ledger.ports.TransactionalStore`.

    Args:
        clock: Returns the present time as an aware UTC datetime.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._tables = _Tables()
        self._grown = asyncio.Event()
        self._changes = 0
        self._alive: set[int] = set()

    async def transact[R](self, operation: Operation[EmbeddedUnit, R]) -> R:
        """Run an operation. It raises before it writes, so that there is nothing to roll back."""
        await give_way()
        result = operation.run(MemoryUnit(self._tables, self._clock()))
        self._changes += 1
        self._grown.set()
        self._grown = asyncio.Event()
        return result

    async def read[R](self, operation: Operation[EmbeddedUnit, R]) -> R:
        """Run an operation that only reads."""
        return operation.run(MemoryUnit(self._tables, self._clock()))

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:  # noqa: ARG002
        """See `signal_ledger.ports.LedgerStore`, as for all methods below."""
        return await self.transact(call)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[MemoryTransaction, None]:
        """Open a caller's transaction: committed in the end, or rolled back by an exception."""
        transaction = MemoryTransaction()
        yield transaction
        for delivery, stored_at in transaction.stored:
            self._tables.store(delivery, stored_at)
            if delivery.traceparent is not None:
                self._tables.traces[delivery.job_id, delivery.signal_id] = delivery.traceparent, stored_at
        self._changes += 1

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        if not isinstance(connection, MemoryTransaction):
            raise TypeError(
                f"conn: expected a MemoryTransaction, got {type(connection).__name__}; this store is in memory, where "
                "no connection leads to: for tests with conn=, open the engine on a SQLite file"
            )
        connection.stored.extend((delivery, self._clock()) for delivery in deliveries)

    async def take(self, take: Take) -> TakeReply | TakeRefusal:
        return await self.transact(TakeCall(take=take))

    async def state(self, job_id: JobId) -> WaitState:
        return MemoryUnit(self._tables, self._clock()).state(job_id)

    async def history(self, job_id: JobId, *, cursor: str | None = None) -> list[RecordedEvent]:
        stream = self._tables.streams[job_id]
        if cursor is None:
            return list(stream)
        position = cursor_position(cursor)
        return [recorded for recorded in stream if recorded.position <= position]

    async def job(self, job_id: JobId) -> RecordedJob | None:
        row = self._tables.jobs.get(job_id)
        return None if row is None else row.recorded

    async def is_settled(self, instant: datetime) -> bool:
        return instant < self._clock()

    async def waiting(
        self, *, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None
    ) -> list[WaitingJob]:
        behind = None if after is None else cursor_wait(after)
        rows = []
        for state in self._tables.states.values():
            wait = state.wait
            if wait is None or state.status not in (Status.LIVE, Status.SNOOZED):
                continue
            if channel is not None and wait.channel != channel:
                continue
            if deadline_before is not None and (wait.deadline_at is None or wait.deadline_at >= deadline_before):
                continue
            if behind is None or (wait.since, state.job_id) > behind:
                rows.append(to_waiting_job(state, wait, wait_cursor(wait.since, state.job_id)))
        return sorted(rows, key=lambda row: (row.since, row.job_id))[:limit]

    async def waits_of(self, job_ids: Sequence[JobId]) -> list[WaitingJob]:
        waiting = await self.waiting(channel=None, deadline_before=None, limit=len(self._tables.states), after=None)
        return [row for row in waiting if row.job_id in job_ids]

    async def page(self, wanted: EventFilter, limit: int) -> list[RecordedEvent]:
        start = 0 if wanted.after is None else cursor_position(wanted.after)
        return [recorded for recorded in self._tables.events[start:] if wanted.matches(recorded)][:limit]

    async def outbox(self, *, limit: int, after: str | None) -> list[StoredSignal]:
        behind = 0 if after is None else cursor_place(after)
        return [signal for place, (signal, _) in self._tables.outbox.items() if place > behind][:limit]

    async def steps(self, workflow_id: str) -> list[SeenStep]:
        return await self.read(SeeSteps(workflow_id=workflow_id))

    async def retry_steps(self, workflow_id: str, names: Sequence[str]) -> int:
        return await self.transact(RetrySteps(workflow_id=workflow_id, names=tuple(names)))

    async def end(self) -> str | None:
        return self._tables.events[-1].cursor if self._tables.events else None

    def mark(self) -> int:
        return self._changes

    async def changed(self, mark: int) -> None:
        if mark == self._changes:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._grown.wait(), 1.0)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator["MemorySnapshot", None]:
        yield MemorySnapshot(self._tables)

    async def rebuild(self, *, progress: Callable[[int], object] | None = None) -> int:
        streams = {job_id: stream for job_id, stream in self._tables.streams.items() if stream}
        self._tables.states = {job_id: fold(job_id, stream) for job_id, stream in streams.items()}
        self._rebuild_steps()
        if progress is not None:
            progress(len(streams))
        return len(streams)

    def _rebuild_steps(self) -> None:
        workflows: defaultdict[str, list[RecordedEvent]] = defaultdict(list)
        workflow_of: dict[JobId, str] = {}
        for recorded in self._tables.events:
            if isinstance(recorded.event, Planned):
                workflow_of[recorded.job_id] = recorded.event.plan.workflow_id
            if recorded.job_id in workflow_of and isinstance(recorded.event, Planned | Closed):
                workflows[workflow_of[recorded.job_id]].append(recorded)
        self._tables.steps, self._tables.edges = {}, {}
        for workflow_id, events in workflows.items():
            story = fold_workflow(events)
            self._tables.steps.update({(workflow_id, step.plan.name): step for step in story.steps})
            self._tables.edges.update({(workflow_id, *edge): ended_as for edge, ended_as in story.edges.items()})

    async def close(self) -> None:
        return

    async def insert_with(self, connection: object, jobs: Sequence[NewJob]) -> list[JobRow]:  # noqa: ARG002
        raise TypeError(
            f"conn: expected None, got {type(connection).__name__}; this store is in memory, where no connection leads "
            "to: for tests with conn=, open the engine on a SQLite file"
        )

    async def join(self, name: str) -> int:
        node = await self.transact(AddNode(name=name))
        self._alive.add(node)
        return node

    def leave(self, node: int) -> None:
        self._alive.discard(node)

    def is_gone(self, node: int) -> bool:
        return node not in self._alive


class MemorySnapshot:
    """See `signal_ledger.ports.Snapshot`. Nothing changes while it is read, as nothing in it waits."""

    def __init__(self, tables: _Tables) -> None:
        self._tables = tables

    async def rows(self, job_ids: Sequence[JobId] | None = None) -> AsyncIterator[tuple[int, StoredEvent]]:
        wanted = None if job_ids is None else set(job_ids)
        numbered = enumerate(self._tables.rows, start=1)
        for position, row in sorted(numbered, key=lambda pair: (pair[1].job_id, pair[1].version)):
            if wanted is None or row.job_id in wanted:
                yield position, row

    async def states(self) -> AsyncIterator[tuple[JobId, WaitState | None]]:
        for job_id in sorted(self._tables.states):
            yield job_id, self._tables.states[job_id]

    async def steps(self) -> AsyncIterator[StoredStep]:
        held = Counter((edge[0], edge[2]) for edge, ended_as in self._tables.edges.items() if ended_as is None)
        for key, step in sorted(self._tables.steps.items(), key=lambda item: item[1].job_id):
            yield StoredStep(job_id=step.job_id, step=step, open_edges=held[key])

    async def wrong_blocks(self) -> AsyncIterator[str]:
        """There are no blocks."""
        none: tuple[str, ...] = ()
        for cursor in none:
            yield cursor  # pragma: no cover - makes it a generator

    async def repairs(self) -> list[JobId]:
        return sorted(self._tables.repairs)

    async def newest_position(self) -> int:
        return len(self._tables.rows)
