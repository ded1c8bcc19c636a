"""What a process holds: it tells itself, and the director sees it from outside."""

import asyncio
from collections import Counter
from pathlib import Path


def report(live=()):
    """What this process holds now: its tasks by name, how many files and sockets, the jobs that wait live."""
    tasks = Counter(_name_of(task) for task in asyncio.all_tasks())
    return {"tasks": tasks, "files": len(list(Path("/proc/self/fd").iterdir())), "live": list(live)}


def _name_of(task):
    name = task.get_name()
    return task.get_coro().__qualname__ if name.startswith("Task-") else name


def held_more(report, connections, *, tasks, connections_max, files_max):
    """Say what a process that is idle holds too much of.

    Args:
        report: What it tells.
        connections: How many it has to the database.
        tasks: Those of such a process that has done nothing yet; of the library's, none may have come to them.
        connections_max: How many such a process has after work without faults.
        files_max: How many files that one has.
    """
    # Oban's notifier leaves a task behind whenever its connection is lost: that is no business of ours.
    more = {
        name: count
        for name, count in (Counter(report["tasks"]) - Counter(tasks)).items()
        if not name.startswith("oban-")
    }
    found = []
    if more:
        found.append(f"tasks {more}")
    if report["live"]:
        found.append(f"live waits of jobs {report['live']}")
    if connections > connections_max:
        found.append(f"{connections} connections, at most {connections_max} without faults")
    if report["files"] > files_max:
        found.append(f"{report['files']} files, at most {files_max} without faults")
    return found
