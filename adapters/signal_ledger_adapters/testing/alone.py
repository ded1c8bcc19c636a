"""Runs one worker on an engine of its own; see `signal_ledger.testing.run`."""

from collections.abc import Iterable
from datetime import timedelta

from signal_ledger.codec import DEFAULT_LIMITS
from signal_ledger_adapters.lite.engine import LiteEngine
from signal_ledger_adapters.oban_api import instances, oban_name_of
from signal_ledger_adapters.testing.engine import make_manual
from signal_ledger_adapters.testing.play import to_new_job
from signal_ledger_adapters.testing.run import Run


async def run_alone(worker: object, args: object, *, signals: Iterable[object], until: float | timedelta | None) -> Run:
    """Open an engine under the name that the worker looks for, and run it there."""
    job = to_new_job(worker, args)
    name = oban_name_of(job.worker)
    if isinstance(instances.get(name), LiteEngine):
        raise RuntimeError(f"run: expected no open engine named {name!r}, there is one; use its own: engine.run(...)")  # noqa: TRY004
    async with make_manual(None, name=name, clock=None, limits=DEFAULT_LIMITS, executions_max=10_000) as engine:
        return await engine.run(job, signals=signals, until=until)
