"""The unit of work on SQLite: reads what a batch needs at once, keeps its writes, and flushes them together.

It decides nothing itself. Every operation of a batch sees what those before it wrote: by job from its caches, and by
SQL because whatever is kept is flushed before a query that might depend on it.
"""

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from signal_ledger.causes import Cause
from signal_ledger.commands import Close, Command, Deliver, Snooze, Take
from signal_ledger.cursors import position_cursor
from signal_ledger.decisions import GotSignal, GotTimeout
from signal_ledger.embedded.job_row import JobRow, NewJob, inserted
from signal_ledger.embedded.operations import repair
from signal_ledger.events import DeliveryOutcome
from signal_ledger.evolve import fold
from signal_ledger.facts import NO_FACTS, Facts, PendingSignal, PriorDelivery
from signal_ledger.instants import from_text, to_text
from signal_ledger.jobs import JobState, JobView
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.steps import SeenStep, Step, see
from signal_ledger.stored import SCHEMA_VERSION, StoredEvent
from signal_ledger.story import Story
from signal_ledger.upcast import NewerEventError
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.sqlite.rows import (
    Columns,
    event_columns,
    job_insert_columns,
    job_update_columns,
    state_columns,
    step_insert_columns,
    step_rewrite_columns,
    step_update_columns,
    to_cause,
    to_job_row,
    to_json,
    to_pending,
    to_state,
    to_step,
    to_stored_event,
)
from signal_ledger_adapters.sqlite.statements import statement

logger = logging.getLogger(__name__)

KNOWN_JOBS_MAX = 10_000
"""How many jobs' views and states a connection remembers."""

_JOB_STATES = {state.value: state for state in JobState}


class GivenIds:
    """The ids of jobs that a process has given in transactions of callers, which may have been rolled back."""

    def __init__(self) -> None:
        self.highest = JobId(0)

    def add(self, job_id: JobId) -> None:
        """Note another one."""
        self.highest = max(self.highest, job_id)


class Known:
    """What a connection knows of jobs from its own transactions, as long as nobody else has written.

    Args:
        given: The ids that are not given again.
    """

    def __init__(self, given: GivenIds | None = None) -> None:
        self.given = GivenIds() if given is None else given
        self.views: dict[JobId, JobView | None] = {}
        self.states: dict[JobId, WaitState | NewerEventError] = {}
        self._data_version = 0

    def forget_if_changed(self, connection: sqlite3.Connection) -> None:
        """Forget everything if another connection has committed, or if it is too much. Call it under the lock."""
        [data_version] = connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version or len(self.states) > KNOWN_JOBS_MAX:
            self.forget()
            self._data_version = data_version

    def forget(self) -> None:
        """Forget everything: a transaction was rolled back."""
        self.views.clear()
        self.states.clear()


class SqliteUnit:
    """A transaction; see `signal_ledger.embedded.unit.EmbeddedUnit`.

    Args:
        connection: Inside of a transaction, or outside of one for reads.
        now: The clock's time, read after the transaction began.
        known: What is known already.
    """

    def __init__(self, connection: sqlite3.Connection, now: datetime, known: Known) -> None:
        self._connection = connection
        self._now = now
        self._views = known.views
        self._states = known.states
        self._given = known.given
        self._rows: dict[JobId, JobRow] = {}
        self._new_events: list[tuple[object, ...]] = []
        self._new_states: dict[JobId, WaitState] = {}
        self._woken: list[JobId] = []
        self._changed_rows: dict[JobId, JobRow] = {}
        self._changed_steps: dict[JobId, Step] = {}
        self._noted: dict[JobId, Cause] = {}
        self._new_traces: list[tuple[object, ...]] = []

    @property
    def now(self) -> datetime:
        return self._now

    def load(self, job_ids: Iterable[JobId]) -> None:
        """Read the views and states of the jobs of a batch, and close the runs that another program has ended.

        The sweeper would do that, too, but maybe after a signal that belongs into the next run (promise W10).
        """
        self.preload(job_ids)
        while self._noted:
            job_id, cause = self._noted.popitem()
            repair(self, job_id, cause)

    def preload(self, job_ids: Iterable[JobId], *, rows: bool = False) -> None:
        """Read the views and states of jobs, or their rows, all in one statement."""
        if rows:
            self._select_jobs("jobs_get", to_json([job_id for job_id in job_ids if job_id not in self._rows]))
            return
        wanted = [
            job_id for job_id in dict.fromkeys(job_ids) if job_id not in self._states or job_id not in self._views
        ]
        if not wanted:
            return
        loaded = self._select("load_jobs", to_json(wanted))
        for job_id, state, execution, attempt, cancel_requested, *projection, has_events, ended_as in loaded:
            self._views[job_id] = (
                None
                if state is None
                else JobView(
                    state=_JOB_STATES[state],
                    execution=Execution(execution),
                    attempt=attempt,
                    cancel_requested=bool(cancel_requested),
                )
            )
            self._states[job_id] = self._read_state(job_id, projection, has_events=has_events)
            if ended_as is not None:
                self._noted[job_id] = Cause(ended_as)

    def flush(self) -> None:
        """Write what is kept. Events come first: the triggers of the jobs look at the projection."""
        if self._new_events:
            self._connection.executemany(statement("append_event"), self._new_events)
            self._new_events = []
        if self._new_states:
            states = [state_columns(state) for state in self._new_states.values()]
            self._connection.executemany(statement("save_state"), states)
            self._new_states = {}
        if self._woken:
            now = to_text(self._now)
            self._connection.executemany(statement("wake_job"), [(now, job_id) for job_id in self._woken])
            self._woken = []
        if self._changed_rows:
            self._connection.executemany(
                statement("job_update"), [job_update_columns(row) for row in self._changed_rows.values()]
            )
            self._changed_rows = {}
        if self._changed_steps:
            steps = [step_update_columns(step) for step in self._changed_steps.values()]
            self._connection.executemany(statement("step_update"), steps)
            self._changed_steps = {}
        if self._new_traces:
            self._connection.executemany(statement("trace_note"), self._new_traces)
            self._new_traces = []

    # The log

    def view(self, job_id: JobId) -> JobView | None:
        if job_id not in self._views:
            self.preload([job_id])
        return self._views[job_id]

    def state(self, job_id: JobId) -> WaitState:
        state = self._states.get(job_id)
        if state is None:
            self.preload([job_id])
            state = self._states[job_id]
        if isinstance(state, NewerEventError):
            raise state
        return state

    def facts(self, command: Command, state: WaitState) -> Facts:
        match command:
            case Deliver():
                return Facts(prior=self._prior(command))
            case Take() | Snooze():
                return Facts(
                    outcome=self._outcome(command, state),
                    outcomes=self._outcomes(command, state),
                    oldest=self._oldest(command, state),
                )
            case Close():
                return NO_FACTS

    def append(self, rows: Sequence[StoredEvent], state: WaitState) -> None:
        for row in rows:
            self._new_events.append(event_columns(row))
        self._new_states[state.job_id] = state
        self._states[state.job_id] = state

    def wake(self, job_id: JobId) -> None:
        row = self._rows.get(job_id)
        if row is not None:
            self.save(row.available(self._now))
            return
        self._woken.append(job_id)
        view = self._views[job_id]
        if view is not None:
            self._views[job_id] = JobView(
                state=JobState.AVAILABLE,
                execution=view.execution,
                attempt=view.attempt,
                cancel_requested=view.cancel_requested,
            )

    def note_trace(self, job_id: JobId, signal_id: SignalId, traceparent: str) -> None:
        self._new_traces.append((job_id, signal_id, traceparent, to_text(self._now)))

    def take_trace(self, job_id: JobId, signal_id: SignalId) -> str | None:
        found = self._select("trace_take", job_id, signal_id)
        return found[0][0] if found else None

    def forget_traces(self, before: datetime, limit: int) -> int:
        return len(self._select("traces_forget", to_text(before), limit))

    def note_repair(self, job_id: JobId, reason: str) -> None:
        self._select("note_repair", job_id, reason)

    def repairs(self) -> Mapping[JobId, str]:
        return {JobId(job_id): cause for job_id, cause in self._select("repairs")}

    def clear_repair(self, job_id: JobId) -> None:
        self._select("clear_repair", job_id)

    def stream(self, job_id: JobId) -> list[RecordedEvent]:
        """Read a whole stream."""
        return [_recorded(columns) for columns in self._select("stream", job_id)]

    def streams_after(self, job_id: JobId, limit: int) -> list[JobId]:
        """Return the next jobs that have a stream."""
        return [JobId(found) for [found] in self._select("streams_after", job_id, limit)]

    def drop_orphans(self) -> None:
        """Delete the stored states that have no stream, and the steps and edges that the log does not tell of."""
        for name in ("drop_orphans", "steps_orphaned", "edges_orphaned"):
            self._select(name)

    def rewrite_blocks(self, first: int, count: int) -> bool:
        """Write what some blocks hold, as the log has it. Return whether there are more behind them."""
        [[last]] = self._select("last_block")
        behind = first + count
        self._select("blocks_forget", first, behind if behind <= last else None)
        self._select("blocks_rewrite", first, behind)
        return bool(behind <= last)

    def restore_step(self, step: Step, deps: Sequence[str]) -> None:
        """Keep a step that the log tells of, unless that is done; how it went on is for `rewrite_workflow`."""
        columns = step_insert_columns(step)
        self._select("step_restore", *columns, *columns[:4])
        self._select("edges_restore", step.plan.workflow_id, step.plan.name, to_json(deps))

    def workflow_after(self, workflow_id: str) -> str | None:
        """Return the next workflow."""
        found = self._select("workflow_after", workflow_id)
        return found[0][0] if found else None

    def workflow_story(self, workflow_id: str) -> list[RecordedEvent]:
        """Read what the log tells of when the steps of a workflow began and ended, in its order."""
        return [_recorded(columns) for columns in self._select("workflow_story", workflow_id)]

    def rewrite_workflow(self, workflow_id: str, story: Story) -> None:
        """Write the steps and edges of a workflow as the log has them."""
        self._select("edges_forget", workflow_id)
        self._connection.executemany(
            statement("edge_rewrite"),
            [(workflow_id, dep, name, ended_as) for (dep, name), ended_as in story.edges.items()],
        )
        self._connection.executemany(statement("step_rewrite"), [step_rewrite_columns(step) for step in story.steps])

    # The jobs

    def insert(self, job: NewJob) -> JobRow:
        row = inserted(JobId(0), job, self._now)
        columns = job_insert_columns(row, self._given.highest)
        [[job_id]] = self._connection.execute(statement("job_insert"), columns).fetchall()
        row = replace(row, id=JobId(job_id))
        # Somebody may have asked for the job before there was one.
        self._views[row.id] = row.view
        return row

    def pass_ids(self, highest: JobId) -> None:
        """Give no id up to this one again."""
        self._select("job_ids_begin")
        self._select("job_ids_pass", highest, highest)

    def job(self, job_id: JobId) -> JobRow | None:
        if job_id not in self._rows:
            self._select_jobs("job_get", job_id)
        return self._rows.get(job_id)

    def save(self, row: JobRow) -> None:
        self._rows[row.id] = self._changed_rows[row.id] = row
        self._views[row.id] = row.view

    def remove(self, job_id: JobId) -> None:
        self._select("job_delete", job_id)
        self._rows.pop(job_id, None)
        self._views[job_id] = None

    def due(self, queues: Sequence[str], limit: int) -> list[JobRow]:
        now = to_text(self._now)
        rows = [row for queue in queues for row in self._select_jobs("jobs_due", queue, now, limit)]
        return sorted(rows, key=lambda row: (row.scheduled_at, row.id))[:limit]

    def next_due_at(self, queues: Sequence[str]) -> datetime | None:
        texts = [text for queue in queues for [text] in self._select("jobs_next_due", queue) if text is not None]
        return from_text(min(texts)) if texts else None

    def available(self, queue: str, limit: int) -> list[JobRow]:
        return self._select_jobs("jobs_available", queue, limit)

    def queues(self) -> list[str]:
        return [queue for [queue] in self._select("job_queues")]

    def executing_nodes(self) -> set[int]:
        return {node for [node] in self._select("executing_nodes")}

    def executing_on(self, node: int) -> list[JobRow]:
        return self._select_jobs("jobs_executing_on", node)

    def cancels(self, job_ids: Sequence[JobId]) -> list[JobId]:
        return [job_id for [job_id] in self._select("jobs_cancels", to_json(job_ids))] if job_ids else []

    def with_pending(self, job_ids: Sequence[JobId]) -> list[JobId]:
        return [job_id for [job_id] in self._select("jobs_with_pending", to_json(job_ids))] if job_ids else []

    def finished_before(self, instant: datetime, limit: int) -> list[JobId]:
        before = to_text(instant)
        return [job_id for [job_id] in self._select("jobs_finished", before, before, before, limit)]

    # The steps

    def step_of(self, job_id: JobId) -> Step | None:
        found = self._select("step_of_job", job_id)
        return to_step(found[0]) if found else None

    def steps_named(self, workflow_id: str, names: Sequence[str]) -> list[Step]:
        return (
            [to_step(columns) for columns in self._select("steps_named", to_json(names), workflow_id)] if names else []
        )

    def add_step(self, step: Step, deps: Sequence[str]) -> None:
        self._select("step_insert", *step_insert_columns(step))
        if deps:
            self._select("edges_insert", step.plan.workflow_id, step.plan.name, to_json(deps))

    def save_step(self, step: Step) -> None:
        self._changed_steps[step.job_id] = step

    def end_edges(self, workflow_id: str, dep: str, cause: Cause) -> list[str]:
        return [name for [name] in self._select("edges_end", cause, workflow_id, dep)]

    def reopen_edges(self, workflow_id: str, names: Sequence[str]) -> None:
        self._select("edges_reopen", workflow_id, to_json(names), to_json(names))

    def edges_to(self, workflow_id: str, names: Sequence[str]) -> Mapping[str, Mapping[str, Cause | None]]:
        return _edges(self._select("edges_to_steps", to_json(names), workflow_id))

    def seen_steps(self, workflow_id: str) -> list[SeenStep]:
        edges = _edges(self._select("edges_of_workflow", workflow_id))
        found = [(to_step(columns), state) for *columns, state in self._select("steps_of_workflow", workflow_id)]
        return [see(step, state, edges.get(step.plan.name, {})) for step, state in found]

    # The outbox

    def has_stored(self) -> bool:
        [[has_pending]] = self._select("outbox_has_pending", SCHEMA_VERSION)
        return bool(has_pending)

    def stored(self, rows_max: int, size_bytes_max: int) -> list[tuple[int, Deliver]]:
        self.flush()
        found: list[tuple[int, Deliver]] = []
        size = 0
        # Row by row: a hundred payloads may be more than fits into memory.
        for columns in self._connection.execute(statement("outbox_pending"), (SCHEMA_VERSION, rows_max)):
            place, delivery = to_pending(columns)
            found.append((place, delivery))
            size += len(delivery.payload)
            if size >= size_bytes_max:
                break
        self.preload([delivery.job_id for _, delivery in found])
        return found

    def settle(self, refusals: Mapping[int, str | None]) -> None:
        refused = [(refusal, place) for place, refusal in refusals.items() if refusal is not None]
        struck = [(place,) for place, refusal in refusals.items() if refusal is None]
        self._connection.executemany(statement("outbox_refuse"), refused)
        self._connection.executemany(statement("outbox_strike"), struck)

    # The engines

    def add_node(self, name: str) -> int:
        [[node]] = self._select("node_insert", name, to_text(self._now))
        return int(node)

    # Inside

    def _select(self, name: str, *parameters: object) -> list[Columns]:
        """Run a statement after everything that it might depend on is written."""
        self.flush()
        return self._connection.execute(statement(name), parameters).fetchall()

    def _select_jobs(self, name: str, *parameters: object) -> list[JobRow]:
        rows = [to_job_row(columns) for columns in self._select(name, *parameters)]
        self._rows.update({row.id: row for row in rows})
        return rows

    def _read_state(self, job_id: JobId, projection: Columns, *, has_events: bool) -> WaitState | NewerEventError:
        try:
            if projection[0] is not None:
                return to_state(job_id, projection)
            if not has_events:
                return WaitState(job_id=job_id)
        except NewerEventError as error:
            return error
        except (KeyError, ValueError, TypeError):
            logger.warning("job %d: its stored wait state cannot be read; folding its stream instead", job_id)
        return self._fold(job_id)

    def _fold(self, job_id: JobId) -> WaitState | NewerEventError:
        try:
            return fold(job_id, self.stream(job_id))
        except NewerEventError as error:
            return error

    def _prior(self, command: Deliver) -> PriorDelivery | None:
        found = self._select("prior_by_key", command.job_id, command.key) if command.key is not None else []
        for signal_id in (command.signal_id, *command.key_ids):
            found = found or self._select("prior_by_id", command.job_id, signal_id)
        if not found:
            return None
        [[version, run, channel, first_id, key, payload_digest, outcome, consumed]] = found
        return PriorDelivery(
            version=version,
            run=run,
            channel=channel,
            signal_id=SignalId(first_id),
            key=key,
            payload_digest=payload_digest,
            outcome=DeliveryOutcome(outcome),
            consumed=bool(consumed),
        )

    def _outcome(self, command: Take | Snooze, state: WaitState) -> GotSignal | GotTimeout | None:
        found = self._select("outcome_of_wait", command.job_id, state.open_run, command.channel, command.ordinal)
        if not found:
            return None
        [[deadline_at, signal_id, payload]] = found
        if signal_id is None:
            return GotTimeout(deadline_at=from_text(deadline_at))
        return GotSignal(signal_id=SignalId(signal_id), payload=payload)

    def _outcomes(self, command: Take | Snooze, state: WaitState) -> int:
        [[outcomes]] = self._select("outcomes_of_channel", command.job_id, state.open_run, command.channel)
        return int(outcomes)

    def _oldest(self, command: Take | Snooze, state: WaitState) -> PendingSignal | None:
        inbox = state.inbox_of(command.channel)
        if inbox is None:
            return None
        found = self._select("oldest_pending", command.job_id, command.channel, inbox.after)
        if not found:
            return None
        [[version, signal_id, recorded_at, payload]] = found
        return PendingSignal(
            version=version, signal_id=SignalId(signal_id), recorded_at=from_text(recorded_at), payload=payload
        )


def _recorded(row: Columns) -> RecordedEvent:
    position, *columns = row
    return from_stored(to_stored_event(columns), position=position, cursor=position_cursor(position))


def _edges(rows: Iterable[Columns]) -> dict[str, dict[str, Cause | None]]:
    edges: dict[str, dict[str, Cause | None]] = {}
    for name, dep, ended_as in rows:
        edges.setdefault(name, {})[dep] = to_cause(ended_as)
    return edges
