"""What the state machines share: several stores, to which the same is done, and which must give the same answers."""

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar

import hypothesis
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from signal_ledger.ledger import Ledger
from signal_ledger.names import JobId
from signal_ledger.recorded import RecordedEvent
from signal_ledger.testing.bench import Bench


class ComparingMachine(RuleBasedStateMachine):
    """Compares stores. Subclass it with `open_benches`, and run it by `play`.

    Attributes:
        benches: Those of the stores; the first one is the reference.
        reached: How often each case that a run must meet was met, over all examples. Each subclass counts for itself.
        to_reach: These cases.
    """

    reached: ClassVar[Counter[str]] = Counter()
    to_reach: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.reached = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self.benches: list[Bench] = []

    @abstractmethod
    async def open_benches(self) -> list[Bench]:
        """Return benches with fresh stores, the reference first: an `EmbeddedBench` on a `MemoryStore`."""

    async def crash_benches(self) -> list[Bench]:
        """Let all processes die and return ``benches`` on what the stores have kept. The reference never crashes.

        A bench goes on with another store by `EmbeddedBench.go_on_with`. A machine that leaves this as it is plays no
        crash, and counts none: it takes ``"crash"`` out of what it has ``to_reach``.
        """
        return self.benches

    async def close_benches(self) -> None:
        """Close the stores."""
        for bench in self.benches:
            await bench.store.close()

    def teardown(self) -> None:
        """Check each log as an auditor would, then close the stores."""
        try:
            for bench in self.benches:
                report = self._run(Ledger(bench.store, None).verify())
                assert report.ok, str(report)
        finally:
            self._run(self.close_benches())
            self._runner.close()

    def _crash(self) -> None:
        self.benches = self._run(self.crash_benches())
        self.reached["crash"] += type(self).crash_benches is not ComparingMachine.crash_benches

    def _run[R](self, awaitable: Awaitable[R]) -> R:
        async def run() -> R:
            return await awaitable

        return self._runner.run(run())

    def _same[R](self, act: Callable[[Bench], Awaitable[R]]) -> R:
        """Do it to every bench; all must answer the same."""
        first, *others = [self._run(act(bench)) for bench in self.benches]
        for other in others:
            assert other == first
        return first


def play(
    machine: type[ComparingMachine],
    *,
    rounds_max: int = 5,
    settings: hypothesis.settings | None = None,
    complete: bool = True,
) -> None:
    """Run a machine; again, until every case was met that a run must meet to mean anything.

    Args:
        machine: The machine.
        rounds_max: How often, at most. Rare cases may need a second round.
        settings: Hypothesis' settings; those of the loaded profile unless given.
        complete: Whether each case must have been met. False is for a quick look with few examples.

    Raises:
        AssertionError: The stores disagree; or there is a case that was never met.
    """
    machine.reached.clear()
    missing = list(machine.to_reach)
    round_settings = settings or hypothesis.settings()
    for _ in range(rounds_max if complete else 1):
        run_state_machine_as_test(machine, settings=round_settings)
        # Derandomized, as Hypothesis is by itself where CI is set, another round would play the same.
        round_settings = hypothesis.settings(round_settings, derandomize=False)
        missing = [case for case in machine.to_reach if not machine.reached[case]]
        if not missing:
            return
    assert not (complete and missing), f"a run that never met {missing} proves little: {machine.reached}"


async def history_of(bench: Bench, job_id: JobId) -> list[RecordedEvent]:
    """Return a stream without its places in the whole log: each store counts these in its own way."""
    return [replace(recorded, position=0, cursor="") for recorded in await bench.store.history(job_id)]
