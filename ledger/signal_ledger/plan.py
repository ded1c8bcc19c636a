"""A step of a workflow: its name, what it depends on, and what it ignores. The content of a ``planned`` event."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from signal_ledger.causes import Cause

FAILURES = (Cause.CANCELLED, Cause.DISCARDED, Cause.DELETED)
"""How a step can end without being completed, in the order in which they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job is to its workflow.

    Args:
        workflow_id: The workflow.
        workflow_name: Its name, if it has one.
        name: The step's name, unique in the workflow.
        deps: The names of the steps that must end first, in the order in which they were given. In a later run of the
            job: those of them that have not ended.
        ignore: How deps may end, besides being completed, without that the step is cancelled.
    """

    workflow_id: str
    workflow_name: str | None
    name: str
    deps: tuple[str, ...]
    ignore: tuple[Cause, ...]

    def tolerates(self, cause: Cause) -> bool:
        """Say whether the step goes on after a dep that ended so."""
        return cause is Cause.COMPLETED or cause in self.ignore

    @property
    def text(self) -> str:
        """The plan as JSON, as the log holds it."""
        return json.dumps(
            {
                "workflow_id": self.workflow_id,
                "workflow_name": self.workflow_name,
                "name": self.name,
                "deps": list(self.deps),
                "ignore": [cause.value for cause in self.ignore],
            },
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a plan as the log holds it.

        Raises:
            ValueError: It is none.

        Example:
            >>> plan = Plan(workflow_id="w", workflow_name=None, name="charge", deps=("approval",), ignore=())
            >>> Plan.from_text(plan.text) == plan
            True
        """
        try:
            found = json.loads(text)
            return cls(
                workflow_id=_text(found["workflow_id"]),
                workflow_name=None if found["workflow_name"] is None else _text(found["workflow_name"]),
                name=_text(found["name"]),
                deps=tuple(_text(dep) for dep in found["deps"]),
                ignore=tuple(cause for cause in FAILURES if cause in found["ignore"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected the plan of a step as JSON, and something is wrong with {error}") from None

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> Self | None:
        """Read the plan that a job carries in its meta, under Oban's own names; None if it is part of no workflow.

        Raises:
            ValueError: It is incomplete.
        """
        if "workflow_id" not in meta:
            return None
        try:
            plan = cls(
                workflow_id=_text(meta["workflow_id"]),
                workflow_name=None if meta.get("workflow_name") is None else _text(meta["workflow_name"]),
                name=_text(meta["name"]),
                deps=tuple(_text(dep) for dep in _list(meta.get("deps", ()))),
                ignore=tuple(cause for cause in FAILURES if meta.get(f"ignore_{cause.value}") is True),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"meta: expected the plan of a step, and something is wrong with {error}") from None
        # Either would be held for ever.
        if plan.name in plan.deps:
            raise ValueError(f"meta: deps: expected other steps, {plan.name!r} cannot wait for itself")
        if len(set(plan.deps)) < len(plan.deps):
            raise ValueError(f"meta: deps: expected each step once, got {plan.deps}")
        return plan

    def to_meta(self) -> dict[str, Any]:
        """Write it for a job's meta, under Oban's own names."""
        named = {} if self.workflow_name is None else {"workflow_name": self.workflow_name}
        ignored = {f"ignore_{cause.value}": True for cause in self.ignore}
        return {"workflow_id": self.workflow_id, **named, "name": self.name, "deps": list(self.deps), **ignored}


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"deps: {type(value).__name__} where a list was expected")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text was expected")
    return value
