"""DBOS: workflows that wait in ``recv_async``, and a client that sends to them."""

import asyncio
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from dbos import DBOS, DBOSClient, SetWorkflowID
from dbos import SendMessage as Message

from benchmarks.cluster import until
from benchmarks.load import measure
from benchmarks.postgres import PAYLOAD
from signal_ledger_adapters.postgres.scratch import Cluster

WAITING = 500
WAIT_S = 3600.0
CONNECTIONS = 32


@DBOS.workflow()
async def wait_once() -> None:
    """Wait for one message."""
    await DBOS.recv_async(timeout_seconds=WAIT_S)


async def sends_per_s(cluster: Cluster, tasks: int, seconds: float) -> float:
    """Send to workflows that wait, while nobody runs them."""
    url = cluster.create_database("dbos_send")
    async with _launched(url):
        await _start(url, WAITING)
    client = DBOSClient(system_database_url=_driver(url), system_database_pool_size=CONNECTIONS)
    place = 0

    async def send() -> bool:
        nonlocal place
        place += 1
        await client.send_async(_id(place % WAITING), PAYLOAD)
        return True

    load = await measure([send] * tasks, seconds)
    client.destroy()
    cluster.drop_database("dbos_send")
    return load.per_s


async def completed_per_s(cluster: Cluster, count: int) -> float:
    """Send to all of many waiting workflows at once, and wait until they have completed."""
    url = cluster.create_database("dbos_complete")
    async with _launched(url):
        await _start(url, count)
        client = DBOSClient(system_database_url=_driver(url), system_database_pool_size=CONNECTIONS)
        started = time.perf_counter()
        await client.send_bulk_async([Message(_id(number), PAYLOAD) for number in range(count)])
        await until(url, "SELECT count(*) >= $1 FROM dbos.workflow_status WHERE status = 'SUCCESS'", count)
        taken_s = time.perf_counter() - started
        client.destroy()
    cluster.drop_database("dbos_complete")
    return count / taken_s


@asynccontextmanager
async def _launched(url: str) -> AsyncGenerator[None, None]:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": _driver(url),
            "sys_db_pool_size": CONNECTIONS,
            "log_level": "ERROR",
            "console_log_level": "ERROR",
        }
    )
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()
        _set_threads()


def _set_threads() -> None:
    """Let the event loop have as many threads for blocking calls, such as the client's, as there are connections.

    DBOS has put an executor of its own into the loop, and has shut it down.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONNECTIONS))


async def _start(url: str, count: int) -> None:
    """Start workflows and return when all of them wait."""
    for number in range(count):
        with SetWorkflowID(_id(number)):
            await DBOS.start_workflow_async(wait_once)
    # They record the timeout of their wait when it begins.
    await until(url, "SELECT count(DISTINCT workflow_uuid) >= $1 FROM dbos.operation_outputs", count)


def _id(number: int) -> str:
    return f"workflow-{number}"


def _driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
