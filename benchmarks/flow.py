"""Workflows: many steps that one waits for, and one that many wait for, on both engines, small and large."""

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from oban import Job, worker

from benchmarks.cluster import bench_cluster, empty, install
from benchmarks.figures import Figure
from benchmarks.oban_engine import attached
from benchmarks.options import Options
from signal_ledger import LiteEngine, ObanEngine, Workflow, lite
from signal_ledger.events import Kind

SMALL = 500
SLOTS = 50

LINEAR_AT_LEAST = 0.8

type Engine = LiteEngine | ObanEngine


@worker(max_attempts=1)
class Step:
    """Does nothing."""

    async def process(self, _job: Job) -> None:
        """Do nothing."""


def fan_in(count: int) -> Workflow:
    """Return a workflow in which one step waits for many."""
    workflow = Workflow()
    names = [f"dep {number}" for number in range(count)]
    for name in names:
        workflow.add(name, _step())
    return workflow.add("last", _step(), deps=names)


def fan_out(count: int) -> Workflow:
    """Return a workflow in which many steps wait for one."""
    workflow = Workflow().add("first", _step())
    for number in range(count):
        workflow.add(f"step {number}", _step(), deps="first")
    return workflow


SHAPES = {"to one": fan_in, "from one": fan_out}


def _step() -> Job:
    job: Job = Step.new({})  # type: ignore[attr-defined]  # @worker adds it
    return job


async def flow(options: Options) -> list[Figure]:
    """Run workflows of both shapes, and compare what a step costs in a large one and in a small one."""
    figures = []
    with bench_cluster() as cluster:
        url = await install(cluster, "flow")
        for engine in ("the embedded engine", "Oban"):
            for shape, workflow_of in SHAPES.items():
                rates: dict[int, list[float]] = {SMALL: [], options.steps: []}
                for number in range(options.rounds):
                    for count, found in rates.items():
                        path = options.folder / f"flow-{shape.replace(' ', '-')}-{count}-{number}.db"
                        await empty(url)
                        opened = _lite(path) if engine != "Oban" else attached(url, {"default": SLOTS})
                        found.append(await _steps_per_s(opened, workflow_of(count)))
                figures += _figures(engine, shape, rates)
    return figures


def _figures(engine: str, shape: str, rates: dict[int, list[float]]) -> list[Figure]:
    (few, of_few), (many, of_many) = rates.items()
    small = Figure(
        name=f"{engine}, {few:,} {shape}", unit="steps/s", rounds=tuple(of_few), series=f"{engine} {shape}", at=few
    )
    large = Figure(
        name=f"{engine}, {many:,} {shape}",
        unit="steps/s",
        rounds=tuple(of_many),
        yardstick=small,
        series=f"{engine} {shape}",
        at=many,
        at_least=LINEAR_AT_LEAST,
    )
    return [small, large]


@asynccontextmanager
async def _lite(path: Path) -> AsyncGenerator[Engine, None]:
    async with lite(f"sqlite:///{path}", queues={"default": SLOTS}) as engine:
        yield engine


async def _steps_per_s(opened: AbstractAsyncContextManager[Engine], workflow: Workflow) -> float:
    """Measure from the call that enqueues a workflow until its last step has ended."""
    async with opened as engine:
        started = time.perf_counter()
        await engine.enqueue_many(workflow)
        left = len(workflow)
        async for recorded in engine.ledger.follow():
            left -= recorded.kind is Kind.CLOSED
            if not left:
                break
        return len(workflow) / (time.perf_counter() - started)
