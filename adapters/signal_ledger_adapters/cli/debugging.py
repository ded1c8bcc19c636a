"""Running a worker in Python's debugger."""

import asyncio
import inspect
import pdb  # noqa: T100 - that is what this is for
from bdb import BdbQuit
from collections.abc import Callable, Coroutine
from importlib import import_module
from operator import attrgetter
from types import CodeType
from typing import Any

from oban.worker import resolve_worker

from signal_ledger.rerun_report import RerunReport

_NOT_OURS = ("asyncio.*", "signal_ledger.*", "signal_ledger_adapters.*", "contextlib", "selectors")


def load_worker(path: str) -> type[Any]:
    """Import a worker: ``app.workers.Approval`` or ``app.workers:Approval``.

    Raises:
        LookupError: There is none; what went wrong is the cause, if something did.
    """
    dotted = path.replace(":", ".")
    home, _, name = dotted.rpartition(".")
    if not home:
        raise LookupError(f"expected the path of a worker, such as app.workers.Approval, got {path!r}")
    try:
        found: object = getattr(import_module(home), name, None)
        if isinstance(found, type) and hasattr(found, "process"):
            return found
        # Where a job was inserted with another name for its worker.
        return resolve_worker(dotted)
    except Exception as error:
        raise LookupError(f"found no worker {path!r}: {type(error).__name__}: {error}") from error


def debugged(worker: type[Any], work: Callable[[], Coroutine[Any, Any, RerunReport]]) -> RerunReport:
    """Rerun a worker in the debugger: it stops where `process` begins, and again where it raised.

    Raises:
        bdb.BdbQuit: The debugger was left.
    """
    code = inspect.unwrap(attrgetter("process")(worker)).__code__
    reports: list[RerunReport] = []

    def run() -> None:
        reports.append(asyncio.run(work()))

    debugger = pdb.Pdb(skip=_NOT_OURS, nosigint=True)
    # As ``python -m pdb -c`` does it.
    debugger.rcLines.extend([f"tbreak {code.co_filename}:{_first_line(code)}", "continue"])
    # Returns when the debugger is left, too.
    debugger.runcall(run)
    if not reports:
        raise BdbQuit
    [report] = reports
    if report.error is not None and report.error.__traceback__ is not None:
        pdb.post_mortem(report.error.__traceback__)
    return report


def _first_line(code: CodeType) -> int:
    lines = [line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno]
    return min(lines, default=code.co_firstlineno)
