"""What the state machines share: several stores, to which the same is done, and which must give the same answers."""

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from signal_ledger.ledger import Ledger
from signal_ledger.names import JobId
from signal_ledger.recorded import RecordedEvent
from signal_ledger.testing.bench import Bench


class ComparingMachine(RuleBasedStateMachine):
    """Compares stores. Subclass it with `open_benches`; the first bench is the reference.

    ``reached`` counts, over all examples, how often each case that a run must meet was met.
    """

    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._benches: list[Bench] = []

    @abstractmethod
    async def open_benches(self) -> list[Bench]:
        """Return benches with fresh stores, the reference first."""

    async def crash_benches(self) -> list[Bench]:
        """Let all processes die and return benches on what the stores have kept. The reference never crashes."""
        return self._benches

    async def close_benches(self) -> None:
        """Close the stores."""
        for bench in self._benches:
            await bench.store.close()

    def teardown(self) -> None:
        """Check each log as an auditor would, then close the stores."""
        try:
            for bench in self._benches:
                report = self._run(Ledger(bench.store, None).verify())
                assert report.ok, str(report)
        finally:
            self._run(self.close_benches())
            self._runner.close()

    def _run[R](self, awaitable: Awaitable[R]) -> R:
        async def run() -> R:
            return await awaitable

        return self._runner.run(run())

    def _same[R](self, act: Callable[[Bench], Awaitable[R]]) -> R:
        """Do it to every bench; all must answer the same."""
        first, *others = [self._run(act(bench)) for bench in self._benches]
        for other in others:
            assert other == first
        return first


async def history_of(bench: Bench, job_id: JobId) -> list[RecordedEvent]:
    """Return a stream without its places in the whole log: each store counts these in its own way."""
    return [replace(recorded, position=0, cursor="") for recorded in await bench.store.history(job_id)]
