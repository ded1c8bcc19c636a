"""Absurd: tasks that wait in ``await_event``, and clients that emit their events."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count as counting

import asyncpg
from absurd_sdk import AsyncAbsurd

from benchmarks.cluster import until
from benchmarks.load import Call, measure
from benchmarks.postgres import PAYLOAD
from signal_ledger_adapters.postgres.scratch import Cluster

WAITING = 6_000
WORKERS = 4
CONCURRENCY = 50
CONNECTIONS = 32

_COUNT = "SELECT count(*) >= $1 FROM absurd.t_bench WHERE state = $2"


async def emits_per_s(cluster: Cluster, schema: str, tasks: int, seconds: float) -> float:
    """Emit the events of tasks that wait, while nobody runs them: each task's once, on a connection for each caller."""
    async with _queue(cluster, schema, WAITING) as url, AsyncExitStack() as stack:
        numbers = counting()
        calls: list[Call] = []
        for _ in range(tasks):
            client = await _client(url, stack)

            async def emit(client: AsyncAbsurd = client) -> bool:
                number = next(numbers)
                if number >= WAITING:
                    return False
                await client.emit_event(f"go:{number}", PAYLOAD)
                return True

            calls.append(emit)
        return (await measure(calls, seconds)).per_s


async def completed_per_s(cluster: Cluster, schema: str, count: int) -> float:
    """Emit the events of all waiting tasks, while workers run, and wait until all have completed."""
    async with _queue(cluster, schema, count) as url, AsyncExitStack() as stack:
        clients = [await _client(url, stack) for _ in range(CONNECTIONS)]
        async with _working(url):
            numbers = iter(range(count))

            async def emit(client: AsyncAbsurd) -> None:
                for number in numbers:
                    await client.emit_event(f"go:{number}", PAYLOAD)

            started = time.perf_counter()
            await asyncio.gather(*[emit(client) for client in clients])
            await until(url, _COUNT, count, "completed")
            taken_s = time.perf_counter() - started
        return count / taken_s


@asynccontextmanager
async def _queue(cluster: Cluster, schema: str, count: int) -> AsyncGenerator[str, None]:
    """Make a database with a queue of waiting tasks."""
    url = cluster.create_database("absurd")
    connection = await asyncpg.connect(url)
    await connection.execute(schema)
    async with AsyncExitStack() as stack:
        clients = [await _client(url, stack) for _ in range(CONNECTIONS)]
        await clients[0].create_queue("bench")
        numbers = iter(range(count))

        async def spawn(client: AsyncAbsurd) -> None:
            for number in numbers:
                await client.spawn("wait", {"number": number}, queue="bench")

        await asyncio.gather(*[spawn(client) for client in clients])
    async with _working(url):
        await until(url, _COUNT, count, "sleeping")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    yield url
    cluster.drop_database("absurd")


@asynccontextmanager
async def _working(url: str) -> AsyncGenerator[None, None]:
    """Run workers, each on a connection of its own."""
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(WORKERS):
            app = await _client(url, stack)
            app.register_task(name="wait", queue="bench")(_wait)
            workers.append(app)
        running = [asyncio.create_task(app.start_worker(concurrency=CONCURRENCY)) for app in workers]
        yield
        for app in workers:
            app.stop_worker()
        await asyncio.gather(*running)


async def _wait(params: dict[str, int], context: object) -> None:
    await context.await_event(f"go:{params['number']}")  # type: ignore[attr-defined]


async def _client(url: str, stack: AsyncExitStack) -> AsyncAbsurd:
    client = AsyncAbsurd(url, queue_name="bench")
    stack.push_async_callback(client.close)
    # It connects with its first call.
    await client.list_queues()
    return client
