"""Workflows drawn: as a tree for a terminal, and in the language of Graphviz."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from signal_ledger.steps import SeenStep
from signal_ledger_adapters.timeline import printable

if TYPE_CHECKING:
    from rich.tree import Tree

_STEPS_MAX = 200
_DEPTH_MAX = 12


def tree(seen: Sequence[SeenStep]) -> "Tree | None":
    """Draw the steps as a tree, each below the last one of its deps; None if it would be too large to be read.

    Args:
        seen: The steps, in the order in which they were planned: deps come before those that depend on them.
    """
    from rich.text import Text
    from rich.tree import Tree

    from signal_ledger_adapters.cli.output import styled

    if len(seen) > _STEPS_MAX:
        return None
    plan = seen[0].step.plan
    root = Tree(Text(printable(plan.workflow_name or plan.workflow_id)), hide_root=False)
    branches: dict[str, tuple[Tree, int]] = {}
    for one in seen:
        # The deepest of them comes last, as far as a tree can tell.
        known = sorted([(branches[dep][1], dep) for dep in one.step.plan.deps if dep in branches])
        parent, depth = branches[known[-1][1]] if known else (root, 0)
        if depth >= _DEPTH_MAX:
            return None
        others = [printable(dep) for dep in one.step.plan.deps if not known or dep != known[-1][1]]
        also = f"  (also after {', '.join(others)})" if others else ""
        label = Text.assemble(
            f"{printable(one.name)}  ", styled(one.state), Text(f"  job {one.step.job_id}{also}", "dim")
        )
        branches[one.name] = parent.add(label), depth + 1
    return root


def dot(seen: Sequence[SeenStep]) -> str:
    """Write the steps as a graph in the language of Graphviz."""
    names = {one.name: json.dumps(one.name, ensure_ascii=False) for one in seen}
    lines = [f"  {name};" for name in names.values()]
    lines += [f"  {names[dep]} -> {names[one.name]};" for one in seen for dep in one.step.plan.deps if dep in names]
    return "\n".join(["digraph {", *lines, "}"])
