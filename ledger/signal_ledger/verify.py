"""`verify`: is the log whole, and is its projection what it folds to (promises L3, L7)?"""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from signal_ledger.causes import Cause
from signal_ledger.names import JobId
from signal_ledger.plan import Plan
from signal_ledger.ports import Snapshot, StoredStep
from signal_ledger.story import StepStory
from signal_ledger.verify_stream import Finding, StreamCheck
from signal_ledger.wait_state import WaitState

FINDINGS_MAX = 10_000
"""How many findings a report keeps, unless the caller says otherwise: a log that is damaged all over must fit."""

PROGRESS_EVERY = 10_000
"""After how many events the progress is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far `Ledger.verify` has come.

    Args:
        events: How many events have been checked.
        total: About how many there are: the position of the newest one. PostgreSQL's positions may have gaps.
        streams: How many streams they are in.
        found: How many findings there are so far.
    """

    events: int
    total: int
    streams: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `Ledger.verify` found.

    Args:
        events: How many events were checked.
        streams: How many streams they are in.
        findings: What is wrong, in the order of the jobs, then what is about the whole log; of very many, the first
            ones.
        found: How many findings there are.
    """

    events: int
    streams: int
    findings: tuple[Finding, ...]
    found: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.found == 0

    def __str__(self) -> str:
        verdict = "ok" if self.ok else _count(self.found, "finding")
        lines = [f"verify: {verdict} ({_count(self.events, 'event')}, {_count(self.streams, 'stream')})"]
        lines += [f"  {finding}" for finding in self.findings]
        if self.found > len(self.findings):
            lines.append(f"  and {self.found - len(self.findings)} more")
        return "\n".join(lines)


class _Findings:
    """What is wrong: all of it counted, the first ones kept."""

    def __init__(self, kept_max: int) -> None:
        self.kept: list[Finding] = []
        self.count = 0
        self._kept_max = kept_max

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.count += 1
            if len(self.kept) < self._kept_max:
                self.kept.append(finding)


async def verify(
    snapshot: Snapshot, *, progress: Callable[[Progress], object] | None = None, findings_max: int = FINDINGS_MAX
) -> Report:
    """Read the whole log in order, beside its projection; then once more beside its blocks.

    Args:
        snapshot: The log and its projection.
        progress: Told now and then, and at the end. What it raises ends the work.
        findings_max: At most so many findings are kept; all are counted.
    """
    findings = _Findings(findings_max)
    events = streams = 0
    total = 0 if progress is None else await snapshot.newest_position()
    repairs = await snapshot.repairs()
    states = _States(snapshot.states(), findings)
    steps = _Steps(snapshot.steps(), findings, frozenset(repairs))
    check: StreamCheck | None = None
    async for _, row in snapshot.rows():
        if check is None or check.job_id != row.job_id:
            if check is not None:
                await states.compare(check)
                await steps.compare(check)
            check = StreamCheck(JobId(row.job_id))
            streams += 1
        findings.add(check.check(row))
        events += 1
        if progress is not None and events % PROGRESS_EVERY == 0:
            progress(Progress(events=events, total=total, streams=streams, found=findings.count))
    if check is not None:
        await states.compare(check)
        await steps.compare(check)
    await states.finish()
    await steps.finish()
    findings.add(_repair(job_id) for job_id in repairs)
    first_wrong, wrong_count = None, 0
    async for cursor in snapshot.wrong_blocks():
        first_wrong, wrong_count = first_wrong or cursor, wrong_count + 1
    if first_wrong is not None:
        findings.add([_wrong_blocks(first_wrong, wrong_count)])
    if progress is not None:
        progress(Progress(events=events, total=total, streams=streams, found=findings.count))
    return Report(events=events, streams=streams, findings=tuple(findings.kept), found=findings.count)


def _repair(job_id: JobId) -> Finding:
    return Finding(job_id=job_id, version=None, rule="L3 repair", expected="a complete stream", found="a missing event")


def _wrong_blocks(first: str, count: int) -> Finding:
    return Finding(
        job_id=None,
        version=None,
        rule="L3 projection",
        expected="blocks that say what the log holds",
        found=f"{_count(count, 'block')} that say otherwise, the first up to {first}",
    )


class _InStep[T: tuple[Any, ...]]:
    """Something stored for jobs, read in step with the streams. Both come in the order of the jobs.

    Args:
        stored: Tuples that begin with a job.
        findings: What is wrong with them is added to these.
        what: What is stored, for findings.
    """

    def __init__(self, stored: AsyncIterator[T], findings: _Findings, what: str) -> None:
        self._stored = stored
        self._findings = findings
        self._what = what
        self._next: T | None = None

    async def take(self, job_id: JobId) -> T | None:
        """Return what is stored for a job."""
        await self._advance_to(job_id)
        if self._next is None or self._next[0] != job_id:
            return None
        found, self._next = self._next, None
        return found

    async def finish(self) -> None:
        """Report what is left: it is stored for jobs that have no stream."""
        await self._advance_to(None)

    def report(self, job_id: JobId, expected: str, found: str) -> None:
        """Add a finding."""
        finding = Finding(job_id=job_id, version=None, rule="L3 projection", expected=expected, found=found)
        self._findings.add([finding])

    async def _advance_to(self, job_id: JobId | None) -> None:
        if self._next is None:
            self._next = await anext(self._stored, None)
        while self._next is not None and (job_id is None or self._next[0] < job_id):
            self.report(self._next[0], "nothing, since the log has no such stream", self._what)
            self._next = await anext(self._stored, None)


class _States(_InStep[tuple[JobId, WaitState | None]]):
    """The stored wait states."""

    def __init__(self, states: AsyncIterator[tuple[JobId, WaitState | None]], findings: _Findings) -> None:
        super().__init__(states, findings, "a state")

    async def compare(self, check: StreamCheck) -> None:
        """Compare the stored state of a stream to its fold."""
        stored = await self.take(check.job_id)
        if check.state is not None and (stored is None or stored[1] != check.state):
            found = "nothing" if stored is None else _describe(stored[1])
            self.report(check.job_id, _describe(check.state), found)


class _Steps(_InStep[StoredStep]):
    """The stored steps of workflows.

    Args:
        steps: The steps.
        findings: What is wrong with them is added to these.
        repairs: Jobs whose streams lack an event: what became of them is not in the log yet.
    """

    def __init__(self, steps: AsyncIterator[StoredStep], findings: _Findings, repairs: frozenset[JobId]) -> None:
        super().__init__(steps, findings, "a step")
        self._repairs = repairs

    async def compare(self, check: StreamCheck) -> None:
        """Compare a stored step to what its stream tells."""
        stored = await self.take(check.job_id)
        if check.state is not None and check.job_id not in self._repairs:
            self._compare(check.job_id, check.step, stored)

    def _compare(self, job_id: JobId, told: StepStory, stored: StoredStep | None) -> None:
        if stored is None:
            if told.plan is not None:
                self.report(job_id, f"step {told.plan.name!r} of workflow {told.plan.workflow_id}", "no step")
        elif stored.step is None:
            self.report(job_id, "a step", "a step that cannot be read")
        elif told.plan != stored.step.plan:
            self.report(job_id, _plan_text(told.plan), f"a step with {_plan_text(stored.step.plan)}")
        else:
            if told.ended_as is not stored.step.ended_as:
                self.report(job_id, _end_text(told.ended_as), f"a step that {_end_text(stored.step.ended_as)}")
            if stored.step.held != stored.open_edges:
                self.report(job_id, f"a step held for {stored.open_edges}", f"one held for {stored.step.held}")


def _plan_text(plan: Plan | None) -> str:
    return "no plan" if plan is None else f"plan {plan.text}"


def _end_text(cause: Cause | None) -> str:
    return "has not ended" if cause is None else f"was {cause.value}"


def _describe(state: WaitState | None) -> str:
    if state is None:
        return "a state that cannot be read"
    return (
        f"run {state.run}, version {state.version}, {state.status.value}, waits {state.waits}, "
        f"inboxes {state.inboxes}, execution {state.execution}, recorded {state.recorded_at}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
