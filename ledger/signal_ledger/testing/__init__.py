"""The test kit: run workers through their waits without a server and without waiting, and hold stores to the contract.

For applications, `run` takes one worker through its waits; `engine` runs whatever jobs there are when it is told to, by
a clock that tests move; the assertions work on any engine or ledger. Pytest's fixtures are in
`signal_ledger.testing.fixtures`, Hypothesis' strategies in `signal_ledger.testing.strategies`.

For stores of another kind, see `signal_ledger.testing.contract`, `signal_ledger.testing.machine` and
`signal_ledger.testing.flow_machine`.

This module is a façade: names are loaded when they are first used, and neither pytest nor Hypothesis is needed for it.
"""

from collections.abc import Iterable
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signal_ledger.codec import Limits
    from signal_ledger.testing.clock import ManualClock as ManualClock
    from signal_ledger_adapters.testing.assertions import assert_not_waiting as assert_not_waiting
    from signal_ledger_adapters.testing.assertions import assert_receipt as assert_receipt
    from signal_ledger_adapters.testing.assertions import assert_signalled as assert_signalled
    from signal_ledger_adapters.testing.assertions import assert_state as assert_state
    from signal_ledger_adapters.testing.assertions import assert_timed_out as assert_timed_out
    from signal_ledger_adapters.testing.assertions import assert_waiting as assert_waiting
    from signal_ledger_adapters.testing.engine import ManualEngine as ManualEngine
    from signal_ledger_adapters.testing.run import Run as Run
    from signal_ledger_adapters.testing.run import Signal as Signal

__all__ = [
    "ManualClock",
    "ManualEngine",
    "Run",
    "Signal",
    "assert_not_waiting",
    "assert_receipt",
    "assert_signalled",
    "assert_state",
    "assert_timed_out",
    "assert_waiting",
    "engine",
    "run",
]

_HOMES = {
    "ManualClock": "signal_ledger.testing.clock",
    "ManualEngine": "signal_ledger_adapters.testing.engine",
    "Run": "signal_ledger_adapters.testing.run",
    "Signal": "signal_ledger_adapters.testing.run",
    "assert_not_waiting": "signal_ledger_adapters.testing.assertions",
    "assert_receipt": "signal_ledger_adapters.testing.assertions",
    "assert_signalled": "signal_ledger_adapters.testing.assertions",
    "assert_state": "signal_ledger_adapters.testing.assertions",
    "assert_timed_out": "signal_ledger_adapters.testing.assertions",
    "assert_waiting": "signal_ledger_adapters.testing.assertions",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def engine(
    url: str | None = None,
    *,
    name: str = "Oban",
    clock: "ManualClock | None" = None,
    limits: "Limits | None" = None,
    executions_max: int = 10_000,
) -> "ManualEngine":
    """Return an engine for tests: it runs jobs when it is told to, and its time is a clock's.

    Use it with ``async with``. It runs the jobs of all queues; `ManualEngine.drain` settles what may run now, and
    `ManualEngine.advance` lets time pass. Awaits snooze at once, so nothing waits for real time.

    Args:
        url: A SQLite file, as for `signal_ledger.lite`, for an application that has its own tables in it and passes
            ``conn=``. None keeps everything in memory.
        name: The name that ``@worker(oban=...)`` finds it by.
        clock: Its time; unless given, one that begins at the present time. ``scheduled_in=`` counts by it, too.
        limits: Bounds on payloads; 16 MiB and a million terms unless given.
        executions_max: How many executions one call may need until all jobs have come to rest; more are an error.

    Raises:
        TypeError: An argument is of another type than expected.
        ValueError: An argument is out of range, or the URL names no SQLite file.

    Example:
        >>> import asyncio
        >>> from datetime import timedelta
        >>> from oban import Cancel, worker
        >>> from signal_ledger import SignalTimeout, await_signal, testing
        >>>
        >>> @worker()
        ... class Approval:
        ...     async def process(self, job):
        ...         try:
        ...             await await_signal(wait_for=timedelta(days=1))
        ...         except SignalTimeout:
        ...             return Cancel("no decision")
        >>>
        >>> async def main():
        ...     async with testing.engine() as engine:
        ...         job = await Approval.enqueue()
        ...         await engine.drain()
        ...         await testing.assert_waiting(job, deadline_in=timedelta(days=1))
        ...         await engine.advance(timedelta(days=1))
        ...         await testing.assert_state(job, "cancelled")
        >>>
        >>> asyncio.run(main())
    """
    from signal_ledger.codec.limits import to_limits  # noqa: PLC0415
    from signal_ledger_adapters.testing.engine import make_manual  # noqa: PLC0415 - Oban is loaded when it is needed

    return make_manual(url, name=name, clock=clock, limits=to_limits(limits), executions_max=executions_max)


async def run(
    worker: object,
    args: object = None,
    *,
    signals: Iterable[object] = (),
    until: float | timedelta | None = None,
) -> "Run":
    """Run one worker through its waits, on an engine of its own in memory, in no time.

    The job is enqueued and runs. Then the clock jumps from deadline to retry to signal, until the job has ended, or
    waits while nothing is left that could happen. Jobs that it enqueues run, too. A job that fails is retried as Oban
    would retry it; its exception is told by the result, and not raised.

    Args:
        worker: A class with ``@worker``, or a job that its ``new()`` has made.
        args: The job's args.
        signals: What to send to it: payloads, which are there before the job first runs; or `Signal` values, with a
            channel, or a time to be sent at.
        until: How far the clock may jump, in seconds or as a timedelta; None is as far as there is something to come.

    Returns:
        How it ended, what it returned, and its history.

    Raises:
        RuntimeError: An engine of the worker's name is open: use its ``run``. Or the jobs do not come to rest.
        TypeError: An argument is of another type than expected.
        ValueError: An argument is out of range.

    Example:
        >>> import asyncio
        >>> from datetime import timedelta
        >>> from oban import worker
        >>> from signal_ledger import await_signal, testing
        >>>
        >>> @worker()
        ... class Approval:
        ...     async def process(self, job):
        ...         return await await_signal(wait_for=timedelta(days=1))
        >>>
        >>> asyncio.run(testing.run(Approval, signals=["approved"])).result
        'approved'
        >>> late = testing.Signal("approved", after=timedelta(hours=5))
        >>> run = asyncio.run(testing.run(Approval, signals=[late]))
        >>> run.state, str(run.took), run.executions
        ('completed', '5:00:00', 2)
    """
    from signal_ledger_adapters.testing.alone import run_alone  # noqa: PLC0415 - as above

    return await run_alone(worker, args, signals=signals, until=until)
