"""Workflows: named jobs that depend on one another, and are signalled by their names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from types import MappingProxyType
from typing import Self, overload
from uuid import uuid4

from oban import Job
from oban.job import JobState

from signal_ledger.arguments import to_bool, to_name, type_name
from signal_ledger.causes import Cause
from signal_ledger.delivery import TIMEOUT_S
from signal_ledger.engines import Engine, only_engine
from signal_ledger.execution import current_execution
from signal_ledger.ledger import Ledger
from signal_ledger.names import JobId
from signal_ledger.offline import Notebook, current_notebook, offline_error
from signal_ledger.plan import Plan
from signal_ledger.ports import WaitingJob
from signal_ledger.receipt import Receipt
from signal_ledger.steps import SeenStep
from signal_ledger.workflow_status import WorkflowStatus, status_of


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStep:
    """A step whose job waits for a signal.

    Args:
        name: The step.
        wait: What it waits for, since when and until when; see `Ledger.waiting`.
    """

    name: str
    wait: WaitingJob


class Workflow:
    """A set of named jobs, some of which run only when others have ended.

    Add the jobs, then enqueue them all at once: ``await engine.enqueue_many(workflow)``, or with Oban's own
    ``enqueue_many``. A job with deps is suspended; when the last of them has been completed it becomes available, in
    the same transaction. If a dep is cancelled, discarded or deleted before that, so is what depends on it, unless it
    ignores that. Signals to a suspended job are kept.

    Args:
        name: What people call it: 1 to 255 bytes of text, or None.
        ignore_cancelled: Whether its steps go on if a dep was cancelled, unless they say otherwise.
        ignore_discarded: The same, if a dep was discarded.
        ignore_deleted: The same, if a dep was deleted.
        via: The engine, or the ledger, that its methods use. Unless given, inside a job its engine, elsewhere the only
            one that is open in the process.

    Raises:
        TypeError: The name is no str, or an option is no bool.
        ValueError: The name is too long, or empty.

    Example:
        >>> import asyncio
        >>> from oban import worker
        >>> from signal_ledger import Workflow, await_signal, lite
        >>>
        >>> @worker()
        ... class Approval:
        ...     async def process(self, job):
        ...         print("approval:", await await_signal())
        >>>
        >>> @worker()
        ... class Charge:
        ...     async def process(self, job):
        ...         print("charged", job.args["amount"])
        >>>
        >>> async def main():
        ...     async with lite("sqlite:///signals.db") as engine:
        ...         workflow = Workflow("order 7")
        ...         workflow.add("approval", Approval.new({}))
        ...         workflow.add("charge", Charge.new({"amount": 12}), deps="approval")
        ...         await engine.enqueue_many(workflow)
        ...         await workflow.signal("approval", "granted", source="ada@example.com")
        ...         async for event in engine.ledger.follow():
        ...             if event.kind == "closed" and event.job_id == workflow.job_ids["charge"]:
        ...                 break
        ...         print((await workflow.status()).state)
        >>>
        >>> asyncio.run(main())
        approval: granted
        charged 12
        completed
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        ignore_cancelled: bool = False,
        ignore_discarded: bool = False,
        ignore_deleted: bool = False,
        via: Engine | Ledger | None = None,
    ) -> None:
        self._id = str(uuid4())
        self._name = None if name is None else to_name("name", name)
        self._ignores = _ignores(
            {
                Cause.CANCELLED: ignore_cancelled,
                Cause.DISCARDED: ignore_discarded,
                Cause.DELETED: ignore_deleted,
            },
            (),
        )
        self._via = via
        self._plans: dict[str, Plan] = {}
        self._jobs: dict[str, Job] = {}
        self._job_ids: dict[str, JobId] = {}
        self._is_loaded = False
        self._is_confirmed = False
        self._notebook: Notebook | None = None

    @classmethod
    async def load(cls, id: str, *, via: Engine | Ledger | None = None) -> Self:  # noqa: A002 - as it is called
        """Find a workflow that was enqueued, maybe by another process and long ago: also after its jobs were pruned.

        In a rerun nothing is looked up: the workflow takes signals for steps of any name, which are not sent, and what
        asks for its steps raises a RuntimeError.

        Args:
            id: Its id.
            via: The engine, or the ledger, to use; see `Workflow`.

        Raises:
            TypeError: The id is no str.
            LookupError: There is none.
            RuntimeError: No engine is open, or more than one.
        """
        workflow = cls(via=via)
        workflow._id = to_name("id", id)
        if (notebook := current_notebook()) is not None:
            workflow._is_loaded, workflow._notebook = True, notebook
            return workflow
        seen = await workflow._ledger.steps(id)
        if not seen:
            raise LookupError(f"workflow: expected the id of one that was enqueued, found none with {id!r}")
        workflow._name = seen[0].step.plan.workflow_name
        workflow._plans = {one.name: one.step.plan for one in seen}
        workflow._job_ids = {one.name: one.step.job_id for one in seen}
        workflow._is_loaded = True
        return workflow

    @property
    def id(self) -> str:
        """Its id, a UUID."""
        return self._id

    @property
    def name(self) -> str | None:
        """What people call it."""
        return self._name

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs that were added, by their names. A workflow that was loaded knows `job_ids` only."""
        return MappingProxyType(self._jobs)

    @property
    def job_ids(self) -> Mapping[str, JobId]:
        """The ids of the jobs, by their names; empty before they are enqueued.

        Raises:
            RuntimeError: It was loaded in a rerun, which does not look it up.
        """
        self._require_looked_up("Workflow.job_ids")
        if self._is_loaded:
            return MappingProxyType(self._job_ids)
        return {name: JobId(job.id) for name, job in self._jobs.items() if job.id is not None}

    def __len__(self) -> int:
        self._require_looked_up("the length of a workflow")
        return len(self._plans)

    def __iter__(self) -> Iterator[Job]:
        if self._is_loaded:
            raise RuntimeError(f"{self}: expected to be new, it was loaded; a workflow is enqueued once")
        for name in self._jobs:
            self._require_no_id(name, "to be enqueued once")
        return iter(self._jobs.values())

    def __repr__(self) -> str:
        return f"Workflow({self._name or self._id!r})"

    def add(
        self,
        name: str,
        job: Job,
        deps: str | Iterable[str] = (),
        *,
        ignore_cancelled: bool | None = None,
        ignore_discarded: bool | None = None,
        ignore_deleted: bool | None = None,
    ) -> Self:
        """Add a job.

        Args:
            name: Its name within the workflow: 1 to 255 bytes of text.
            job: The job, from ``Worker.new()``. Its meta gets the workflow's keys, and it is suspended if it has deps.
            deps: The names of those that must end first: one, or several. They must have been added.
            ignore_cancelled: Whether it goes on if a dep was cancelled; None is as the workflow says.
            ignore_discarded: The same, if a dep was discarded.
            ignore_deleted: The same, if a dep was deleted.

        Returns:
            The workflow, so that calls can be chained.

        Raises:
            TypeError: A name is no str, or the job is none.
            ValueError: The name is taken, a dep is unknown or is the step itself, or the job has been enqueued.
            RuntimeError: The workflow was loaded, or has been enqueued.
        """
        if self._is_loaded:
            raise RuntimeError(f"{self}: expected to be new, it was loaded; nothing can be added to it")
        # Jobs are enqueued in their order, so the first one tells: a look at all, for each, would be dear.
        for first in islice(self._jobs, 1):
            self._require_no_id(first, "nothing to be added once it is enqueued")
        checked = to_name("name", name)
        if checked in self._plans:
            raise ValueError(f"{self}: expected a new name, {checked!r} was added already")
        if not isinstance(job, Job):
            raise TypeError(f"{self}: job: expected a Job, such as Worker.new(...) returns, got {type_name(job)}")
        if job.id is not None:
            raise ValueError(f"{self}: job: expected one that is not enqueued, {checked!r} has id {job.id}")
        if "workflow_id" in (job.meta or {}):
            raise ValueError(f"{self}: job: expected a job of its own for {checked!r}, this one was added already")
        plan = Plan(
            workflow_id=self._id,
            workflow_name=self._name,
            name=checked,
            deps=self._deps(checked, deps),
            ignore=_ignores(
                {
                    Cause.CANCELLED: ignore_cancelled,
                    Cause.DISCARDED: ignore_discarded,
                    Cause.DELETED: ignore_deleted,
                },
                self._ignores,
            ),
        )
        job.meta = {**(job.meta or {}), **plan.to_meta()}
        if plan.deps:
            job.state = JobState.SUSPENDED
        self._plans[checked] = plan
        self._jobs[checked] = job
        return self

    def _require_no_id(self, name: str, expected: str) -> None:
        if (job_id := self._jobs[name].id) is not None:
            raise RuntimeError(
                f"{self}: expected {expected}, the job of {name!r} has id {job_id} already; "
                "if that enqueue failed or was rolled back, make the workflow anew"
            )

    def _deps(self, name: str, deps: str | Iterable[str]) -> tuple[str, ...]:
        names = self._names("deps", deps)
        for dep in names:
            if dep == name:
                raise ValueError(f"{self}: deps: expected other steps, {name!r} cannot wait for itself")
            if dep not in self._plans:
                known = ", ".join(map(repr, self._plans)) or "none"
                raise ValueError(f"{self}: deps: expected steps that were added before, got {dep!r}; added: {known}")
        return tuple(dict.fromkeys(names))

    def _names(self, argument: str, given: object) -> list[str]:
        # Bytes are an iterable of numbers, which nobody meant.
        is_one = isinstance(given, str | bytes | bytearray)
        names = []
        for name in given if isinstance(given, Iterable) and not is_one else [given]:
            if not isinstance(name, str):
                raise TypeError(f"{self}: {argument}: expected names of steps, got {type_name(name)}")
            names.append(name)
        return names

    @overload
    async def signal(  # type: ignore[overload-overlap]  # a str is an iterable of str, too, and is taken for a name
        self,
        name: str,
        payload: object,
        *,
        channel: str | None = None,
        key: str | None = None,
        source: str | None = None,
        conn: object = None,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109
    ) -> Receipt: ...
    @overload
    async def signal(
        self,
        name: Iterable[str],
        payload: object,
        *,
        channel: str | None = None,
        key: str | None = None,
        source: str | None = None,
        conn: object = None,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109
    ) -> list[Receipt]: ...

    async def signal(
        self,
        name: str | Iterable[str],
        payload: object,
        *,
        channel: str | None = None,
        key: str | None = None,
        source: str | None = None,
        conn: object = None,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109
    ) -> Receipt | list[Receipt]:
        """Deliver a signal to one step or to several; see `signal_ledger.signal`.

        Args:
            name: The step's name, or several names: all of them get the signal, or none.
            payload: As for `signal_ledger.signal`, and so are those that follow.
            channel: The channel.
            key: Makes the call idempotent.
            source: Who or what signals.
            conn: The caller's own connection. Whether the workflow was enqueued is not looked up then: it may have been
                in this very transaction.
            timeout: Bounds the call with its retries, in seconds.

        Returns:
            A receipt, or a list of them in the order of the names.

        Raises:
            TypeError: A name is no str.
            ValueError: The workflow has no such step, or has not been enqueued; nothing was delivered.
        """
        targets = [self._job_id(each) for each in self._names("name", name)]
        if conn is None:
            await self._confirm()
        target = targets[0] if isinstance(name, str) else targets
        return await self._opened.signal(
            target, payload, channel=channel, key=key, source=source, conn=conn, timeout=timeout
        )

    async def _confirm(self) -> None:
        """See once that the ledger has the steps: after a rollback another process may give their ids to other jobs."""
        if self._is_loaded or self._is_confirmed or current_notebook() is not None:
            return
        found = {one.name: one.step.job_id for one in await self._ledger.steps(self._id)}
        if any(found.get(name) != job_id for name, job_id in self.job_ids.items()):
            raise ValueError(
                f"{self}: expected to be enqueued before it is signalled; was its transaction rolled back?"
            )
        self._is_confirmed = True

    def _job_id(self, name: str) -> JobId:
        if self._notebook is not None:
            return self._notebook.step_id(self._id, name)
        if name not in self._plans:
            known = ", ".join(map(repr, self._plans)) or "none"
            raise ValueError(f"{self}: expected the name of a step, got {name!r}; there are {known}")
        job_id = self.job_ids.get(name)
        if job_id is None:
            raise ValueError(f"{self}: expected to be enqueued before it is signalled")
        return job_id

    async def status(self) -> WorkflowStatus:
        """Say how it is doing: how many steps are in which state, and who is held for whom.

        Raises:
            LookupError: It has not been enqueued.
        """
        seen = await self._seen()
        via = self._opened
        now = None if isinstance(via, Ledger) else via.present()
        return status_of(seen, datetime.now(UTC) if now is None else now)

    async def waiting(self) -> list[WaitingStep]:
        """Return the steps whose jobs wait for a signal, the longest-waiting first."""
        alive = {one.step.job_id: one.name for one in await self._seen() if one.step.ended_as is None}
        waits = await self._ledger.waits_of(list(alive))
        return [WaitingStep(name=alive[wait.job_id], wait=wait) for wait in waits]

    async def cancel(self) -> int:
        """Cancel all steps that have not ended: those that wait end, those that execute are asked to stop.

        Returns:
            How many had not ended.

        Raises:
            LookupError: It has not been enqueued.
            RuntimeError: ``via`` is a ledger, which runs no jobs.
        """
        alive = [one.step.job_id for one in await self._seen() if one.step.ended_as is None]
        via = self._opened
        if isinstance(via, Ledger):
            raise RuntimeError(f"{self}: cancel: expected an engine, a ledger runs no jobs")  # noqa: TRY004
        return await via.cancel_many_jobs(alive)

    async def retry(self) -> int:
        """Take up again what was cancelled or discarded, as far as its jobs are there.

        Steps whose deps are taken up, too, are held for them again. A step that failed because of a dep that cannot be
        taken up, since it was deleted or pruned, is left as it is. Each begins a new run.

        Returns:
            How many steps were taken up.

        Raises:
            LookupError: It has not been enqueued.
        """
        await self._seen()
        return await self._ledger.retry_steps(self._id)

    def graph(self) -> str:
        """Draw it as a flowchart in Mermaid's language.

        Example:
            >>> from oban import Job
            >>> from signal_ledger import Workflow
            >>>
            >>> workflow = Workflow().add("approval", Job("shop.Approval"))
            >>> _ = workflow.add("charge", Job("shop.Charge"), deps="approval")
            >>> print(workflow.graph())
            flowchart TD
                s1["approval"]
                s2["charge"]
                s1 --> s2

        Raises:
            RuntimeError: It was loaded in a rerun, which does not look it up.
        """
        self._require_looked_up("Workflow.graph")
        places = {name: f"s{number}" for number, name in enumerate(self._plans, start=1)}
        lines = [f'    {place}["{_escaped(name)}"]' for name, place in places.items()]
        lines += [
            f"    {places[dep]} --> {places[name]}"
            for name, plan in self._plans.items()
            for dep in plan.deps
            if dep in places
        ]
        return "\n".join(["flowchart TD", *lines])

    def _require_looked_up(self, what: str) -> None:
        if self._notebook is not None:
            raise offline_error(what)

    async def _seen(self) -> Sequence[SeenStep]:
        seen = await self._ledger.steps(self._id)
        if not seen:
            raise LookupError(f"{self}: expected to be enqueued, there are no steps of it")
        return seen

    @property
    def _opened(self) -> Engine | Ledger:
        if self._via is not None:
            return self._via
        execution = current_execution()
        return only_engine(str(self)) if execution is None else execution.engine

    @property
    def _ledger(self) -> Ledger:
        via = self._opened
        return via if isinstance(via, Ledger) else via.ledger


def _ignores(options: Mapping[Cause, bool | None], default: Iterable[Cause]) -> tuple[Cause, ...]:
    """Read the options, of which None is as the default has it."""
    return tuple(
        cause
        for cause, option in options.items()
        if (cause in default if option is None else to_bool(f"ignore_{cause.value}", option))
    )


_ENTITIES = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}


def _escaped(name: str) -> str:
    """Write a name into a label of Mermaid's, on one line: its entities begin with a #, where HTML's have an &."""
    return "".join(_ENTITIES.get(character, character) for character in " ".join(name.splitlines()))
