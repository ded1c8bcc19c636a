"""What is left behind is seen and named: locks, connections, live waits and tasks, on both engines."""

import asyncio
import contextlib
import os
import sys

import psycopg
import pytest

from signal_ledger_adapters.postgres.binaries import PostgresMissingError
from tests.eventually import eventually
from tests.torture.lite_site import lite_site
from tests.torture.postgres_site import postgres_site
from tests.torture.processes import Child, named
from tests.torture.run import Run, _idle_of, _leaks
from tests.torture.worker import Tortured

STEP = {"channel": "", "wait_for": None, "window": 600.0}


@pytest.fixture
async def postgres(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        try:
            site = await stack.enter_async_context(postgres_site(tmp_path))
        except PostgresMissingError as missing:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(missing))
        yield site


@contextlib.asynccontextmanager
async def working(site, folder):
    """A run with a worker that has done nothing yet, and what it holds then."""
    worker = Child(folder, "worker", 0, site.engine_name, site.url, folder, "NAME")
    run = Run(site=site, seed=1, seconds=0.0, folder=folder, workers=[worker])
    await worker.start()
    try:
        yield run, {"worker": await _idle_of(run, worker)}
    finally:
        await worker.kill()


async def wait_live(run):
    """Have the worker wait live, for long; return the job."""
    [job_id] = await run.site.enqueue([Tortured.new({"seed": 1, "fails": 0.0, "steps": [STEP]})])
    await eventually(lambda: is_live(run))
    return job_id


async def is_live(run):
    return (await run.workers[0].ask())["live"]


async def test_a_live_wait_and_the_tasks_of_the_embedded_engine_are_named(tmp_path):
    async with lite_site(tmp_path) as site, working(site, tmp_path) as (run, idle):
        assert await _leaks(run, idle) == []
        job_id = await wait_live(run)
        assert_names(await _leaks(run, idle), job_id)


async def test_a_live_wait_and_the_tasks_of_oban_are_named(postgres, tmp_path):
    async with working(postgres, tmp_path) as (run, idle):
        assert await _leaks(run, idle) == []
        job_id = await wait_live(run)
        assert_names(await _leaks(run, idle), job_id)


def assert_names(leaks, job_id):
    assert f"worker 0.1: live waits of jobs [{job_id}]" in leaks
    assert [leak for leak in leaks if leak.startswith("worker 0.1: tasks {")], leaks


@contextlib.asynccontextmanager
async def locker(path):
    """A process that holds the write lock of a file, and for that a connection."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *("-m", "tests.torture.locker", str(path), "600"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_a_lock_and_a_connection_to_the_file_are_named(tmp_path):
    async with lite_site(tmp_path) as site:
        assert (await site.held(), await site.left()) == ([], [])
        async with locker(tmp_path / "signals.db") as process:
            named_lock = ["the write lock: database is locked"]
            assert (await site.held(), await site.left()) == (named_lock, named_lock)
            assert await site.connections([process]) == {process: 1}
        assert (await site.held(), await site.left()) == ([], [])


async def test_locks_transactions_and_connections_of_the_server_are_named(postgres):
    assert await postgres.held() == []
    async with contextlib.AsyncExitStack() as stack:

        async def connected(name, **options):
            url = f"{postgres.url}&application_name={name}"
            return await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, **options))

        await connected("own-1", autocommit=True)
        locks = await connected("locks", autocommit=True)
        await locks.execute("SELECT pg_advisory_lock(1)")
        idles = await connected("idles")
        await idles.execute("LOCK TABLE oban_jobs")
        waits = asyncio.create_task((await connected("waits")).execute("SELECT FROM oban_jobs"))

        async def found():
            return names_all(await postgres.held())

        await eventually(found, timeout=10)
        await idles.rollback()
        await waits
    await eventually(lambda: holds_nothing(postgres), timeout=10)


def names_all(held):
    told = "\n".join(held)
    wanted = (
        "own-1: ",
        "ExclusiveLock on advisory, granted: t",
        "idles: idle in transaction, LOCK TABLE oban_jobs",
        "AccessShareLock on relation, granted: f",
    )
    return all(one in told for one in wanted)


async def holds_nothing(site):
    return await site.held() == []


async def test_connections_of_a_worker_and_after_its_end_are_named(postgres, tmp_path):
    async with working(postgres, tmp_path) as (run, idle), contextlib.AsyncExitStack() as stack:
        [worker] = run.workers
        for _ in range(postgres.connections_max["worker"]):
            url = named(postgres.url, "worker", worker.name)
            left = await stack.enter_async_context(await psycopg.AsyncConnection.connect(url))
        [leak] = await _leaks(run, idle)
        assert leak.endswith(f" connections, at most {postgres.connections_max['worker']} without faults")
        await worker.kill()
        found = await postgres.left()
        assert [one for one in found if one.startswith(f"{left.info.backend_pid}: idle")], found
        assert len(found) >= postgres.connections_max["worker"]
    assert await postgres.left() == []
