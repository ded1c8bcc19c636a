"""The unit of work of the embedded engine: the ledger's, and the rows of the jobs."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from signal_ledger.causes import Cause
from signal_ledger.commands import Deliver
from signal_ledger.embedded.job_row import JobRow, NewJob
from signal_ledger.names import JobId
from signal_ledger.steps import SeenStep, Step
from signal_ledger.unit import LedgerUnit


class EmbeddedUnit(LedgerUnit, Protocol):
    """A transaction on jobs and log together."""

    def insert(self, job: NewJob) -> JobRow:
        """Insert a job; ids never repeat, not even after a deletion."""
        ...

    def job(self, job_id: JobId) -> JobRow | None:
        """Return a job's row."""
        ...

    def preload(self, job_ids: Sequence[JobId], *, rows: bool = False) -> None:
        """Read the views and states of jobs, or their rows, in one statement: what is asked for next."""
        ...

    def save(self, row: JobRow) -> None:
        """Write a changed row."""
        ...

    def remove(self, job_id: JobId) -> None:
        """Delete a row."""
        ...

    def step_of(self, job_id: JobId) -> Step | None:
        """Return the step that a job is."""
        ...

    def steps_named(self, workflow_id: str, names: Sequence[str]) -> list[Step]:
        """Return those of these steps that there are."""
        ...

    def add_step(self, step: Step, deps: Sequence[str]) -> None:
        """Keep a new step, with an open edge from each of its deps."""
        ...

    def save_step(self, step: Step) -> None:
        """Write a changed step."""
        ...

    def end_edges(self, workflow_id: str, dep: str, cause: Cause) -> list[str]:
        """Note on the open edges from a step how it ended, and return the names of those that depend on it by these."""
        ...

    def reopen_edges(self, workflow_id: str, names: Sequence[str]) -> None:
        """Open the edges among these steps again."""
        ...

    def edges_to(self, workflow_id: str, names: Sequence[str]) -> Mapping[str, Mapping[str, Cause | None]]:
        """Return how each dep of these steps ended, None for those that have not; nothing for a step without deps."""
        ...

    def seen_steps(self, workflow_id: str) -> list[SeenStep]:
        """Return the steps of a workflow, in the order of their jobs."""
        ...

    def due(self, queues: Sequence[str], limit: int) -> list[JobRow]:
        """Return the scheduled and retryable jobs of these queues whose time has come, the earliest first."""
        ...

    def next_due_at(self, queues: Sequence[str]) -> datetime | None:
        """Return when the next scheduled or retryable job of these queues is due."""
        ...

    def available(self, queue: str, limit: int) -> list[JobRow]:
        """Return jobs that may run and have an attempt left: by priority, time and id."""
        ...

    def queues(self) -> list[str]:
        """Return the queues that hold a job which may run, now or at its time; in the order of their names."""
        ...

    def executing_nodes(self) -> set[int]:
        """Return the engines that jobs are said to execute on."""
        ...

    def executing_on(self, node: int) -> list[JobRow]:
        """Return the jobs that are said to execute on an engine."""
        ...

    def cancels(self, job_ids: Sequence[JobId]) -> list[JobId]:
        """Return which of these executing jobs were asked to stop."""
        ...

    def with_pending(self, job_ids: Sequence[JobId]) -> list[JobId]:
        """Return which of these jobs have a signal that nobody has consumed."""
        ...

    def finished_before(self, instant: datetime, limit: int) -> list[JobId]:
        """Return jobs in a terminal state since before an instant."""
        ...

    def forget_traces(self, before: datetime, limit: int) -> int:
        """Keep no longer the traces that were noted before an instant; return how many those were."""
        ...

    def repairs(self) -> Mapping[JobId, str]:
        """Return the jobs noted for repair, each with the cause of the missing ``closed`` event."""
        ...

    def clear_repair(self, job_id: JobId) -> None:
        """Strike a job off that list."""
        ...

    def has_stored(self) -> bool:
        """Say whether the outbox holds a signal to relay."""
        ...

    def stored(self, rows_max: int, size_bytes_max: int) -> list[tuple[int, Deliver]]:
        """Return the next signals to relay, in the order in which they were stored, each with its place.

        Those whose streams a newer version of this library has written to are left to that version.

        Args:
            rows_max: At most so many.
            size_bytes_max: No more once their payloads have this size together; the first one comes whatever its size.
        """
        ...

    def settle(self, refusals: Mapping[int, str | None]) -> None:
        """Strike signals from the outbox by their places, or note why they were refused."""
        ...

    def add_node(self, name: str) -> int:
        """Register an engine and return its id, which never repeats."""
        ...
