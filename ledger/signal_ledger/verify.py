"""`verify`: is the log whole, and is its projection what it folds to (promises L3, L7)?"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from signal_ledger.names import JobId
from signal_ledger.ports import Snapshot
from signal_ledger.verify_stream import Finding, StreamCheck
from signal_ledger.wait_state import WaitState


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `Ledger.verify` found.

    Args:
        events: How many events were checked.
        streams: How many streams they are in.
        findings: What is wrong, in the order of the jobs.
    """

    events: int
    streams: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def __str__(self) -> str:
        verdict = "ok" if self.ok else _count(len(self.findings), "finding")
        lines = [f"verify: {verdict} ({_count(self.events, 'event')}, {_count(self.streams, 'stream')})"]
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])


async def verify(snapshot: Snapshot) -> Report:
    """Read the whole log once, in order, beside its projection."""
    findings: list[Finding] = []
    events = streams = 0
    states = _States(snapshot.states())
    check: StreamCheck | None = None
    async for _, row in snapshot.rows():
        if check is None or check.job_id != row.job_id:
            if check is not None:
                findings += await states.compare(check)
            check = StreamCheck(JobId(row.job_id))
            streams += 1
        findings += check.check(row)
        events += 1
    if check is not None:
        findings += await states.compare(check)
    findings += await states.without_events()
    for job_id in await snapshot.repairs():
        findings.append(
            Finding(
                job_id=job_id, version=None, rule="L3 repair", expected="a complete stream", found="a missing event"
            )
        )
    return Report(events=events, streams=streams, findings=tuple(findings))


class _States:
    """The stored projections, read in step with the streams. Both come in the order of the jobs."""

    def __init__(self, states: AsyncIterator[tuple[JobId, WaitState | None]]) -> None:
        self._states = states
        self._next: tuple[JobId, WaitState | None] | None = None
        self._extra: list[Finding] = []

    async def compare(self, check: StreamCheck) -> list[Finding]:
        """Compare the stored state of a stream to its fold."""
        await self._advance_to(check.job_id)
        findings = self._take_extra()
        stored = None
        is_there = self._next is not None and self._next[0] == check.job_id
        if self._next is not None and is_there:
            stored = self._next[1]
            self._next = None
        if check.state is not None and stored != check.state:
            found = _describe(stored) if is_there else "nothing"
            findings.append(_finding(check.job_id, _describe(check.state), found))
        return findings

    async def without_events(self) -> list[Finding]:
        """Report the stored states that have no stream."""
        await self._advance_to(None)
        return self._take_extra()

    async def _advance_to(self, job_id: JobId | None) -> None:
        if self._next is None:
            self._next = await anext(self._states, None)
        while self._next is not None and (job_id is None or self._next[0] < job_id):
            self._extra.append(_finding(self._next[0], "nothing, since the log has no such stream", "a state"))
            self._next = await anext(self._states, None)

    def _take_extra(self) -> list[Finding]:
        extra, self._extra = self._extra, []
        return extra


def _finding(job_id: JobId, expected: str, found: str) -> Finding:
    return Finding(job_id=job_id, version=None, rule="L3 projection", expected=expected, found=found)


def _describe(state: WaitState | None) -> str:
    if state is None:
        return "a state that cannot be read"
    return (
        f"run {state.run}, version {state.version}, {state.status.value}, waits {state.waits}, "
        f"inboxes {state.inboxes}, execution {state.execution}, recorded {state.recorded_at}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
