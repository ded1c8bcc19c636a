"""A workflow's story: its steps and edges, folded from the log (promises F5, L3).

docs/adr/0016-workflows.md tells which events there are, and what they do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from signal_ledger.causes import Cause
from signal_ledger.events import Closed, Planned
from signal_ledger.names import JobId
from signal_ledger.plan import Plan
from signal_ledger.recorded import RecordedEvent
from signal_ledger.steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What the events of a workflow add up to.

    Args:
        steps: Its steps, in the order in which they were planned.
        edges: From each dep, and to each name, how the dep ended for it; None for an edge that is open.
    """

    steps: tuple[Step, ...]
    edges: Mapping[tuple[str, str], Cause | None]


class StepStory:
    """What one stream tells of the step that its job is. Takes as much memory however long it is.

    ``plan`` is that of the first run; None as long as there was none, and the job is no step.
    """

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.planned_at: datetime | None = None
        self.ended_as: Cause | None = None
        self.ended_at: datetime | None = None

    def add(self, event: Planned | Closed, recorded_at: datetime) -> None:
        """Go on with the next event: each run of a step begins with its plan."""
        if isinstance(event, Planned):
            if self.plan is None:
                self.plan, self.planned_at = replace(event.plan, deps=()), recorded_at
            self.ended_as = self.ended_at = None
        elif self.plan is not None and self.ended_as is None:
            self.ended_as, self.ended_at = event.cause, recorded_at


def fold_workflow(events: Iterable[RecordedEvent]) -> Story:
    """Fold the ``planned`` and ``closed`` events of a workflow's jobs into its steps and edges.

    Args:
        events: In the order of the log.
    """
    streams: dict[JobId, StepStory] = {}
    names: dict[str, StepStory] = {}
    edges: dict[str, dict[str, Cause | None]] = {}
    for recorded in events:
        event = recorded.event
        assert isinstance(event, Planned | Closed)  # noqa: S101 - those are asked for
        story = streams.setdefault(recorded.job_id, StepStory())
        is_new = story.plan is None
        story.add(event, recorded.recorded_at)
        if isinstance(event, Planned):
            names[event.plan.name] = story
            for dep in event.plan.deps:
                # A dep that came in earlier may have ended already. The plans of later runs name those that are open.
                known = names.get(dep) if is_new else None
                edges.setdefault(dep, {})[event.plan.name] = None if known is None else known.ended_as
        elif story.plan is not None:
            told = edges.get(story.plan.name, {})
            told.update({name: event.cause for name, ended_as in told.items() if ended_as is None})
    return _told(streams, edges)


def _told(streams: Mapping[JobId, StepStory], edges: Mapping[str, Mapping[str, Cause | None]]) -> Story:
    held: dict[str, int] = {}
    for told in edges.values():
        for name, ended_as in told.items():
            held[name] = held.get(name, 0) + (ended_as is None)
    steps = [
        Step(
            plan=story.plan,
            job_id=job_id,
            held=held.get(story.plan.name, 0),
            planned_at=story.planned_at,
            ended_as=story.ended_as,
            ended_at=story.ended_at,
        )
        for job_id, story in streams.items()
        if story.plan is not None and story.planned_at is not None
    ]
    return Story(
        steps=tuple(steps),
        edges={(dep, name): ended_as for dep, told in edges.items() for name, ended_as in told.items()},
    )
