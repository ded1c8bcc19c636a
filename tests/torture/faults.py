"""Faults of both engines. Each returns how often it happened: 0 means that it did not, which fails the run."""

import asyncio

from tests.eventually import eventually

FREEZE_S = (0.5, 2.5)


async def kill_worker(run, rng):
    """SIGKILL a worker, and start another one a little later."""
    return await _kill(run, rng, rng.choice(run.workers))


async def kill_client(run, rng):
    """SIGKILL a client, and start another one a little later."""
    return await _kill(run, rng, rng.choice(run.clients))


async def _kill(run, rng, child):
    was_killed = await child.kill()
    await asyncio.sleep(rng.random() * 0.5)
    await child.start()
    return int(was_killed)


async def freeze_worker(run, rng):
    """SIGSTOP a worker: on Oban its jobs are rescued, and it goes on as a zombie; on SQLite it may hold the lock."""
    return await _freeze(run, rng, rng.choice(run.workers), run.site.freeze_worker_s)


async def freeze_client(run, rng):
    """SIGSTOP a client, which may hold the write lock, or locks on jobs."""
    return await _freeze(run, rng, rng.choice(run.clients), FREEZE_S)


async def _freeze(run, rng, child, seconds):
    child.freeze()
    try:
        await eventually(lambda: child.is_frozen, timeout=5)
        await asyncio.sleep(rng.uniform(*seconds))
        was_frozen = child.is_frozen
    finally:
        child.thaw()
    return int(was_frozen)


async def cancel(run, rng):
    """An operator cancels jobs."""
    return await run.site.cancel(run.some_jobs(rng, 3))


async def retry(run, rng):
    """An operator retries jobs: some wait, some have ended."""
    return await run.site.retry(run.some_jobs(rng, 6))


async def delete(run, rng):
    """An operator deletes jobs."""
    return await run.site.delete(run.some_jobs(rng, 2))


async def prune(run, rng):
    """Jobs that ended a while ago are deleted."""
    return await run.site.prune(rng.uniform(0.5, 2.0))


async def rescue(run, rng):
    """Jobs are taken from a process that lives: it goes on with them as a zombie."""
    return await run.site.rescue()


FAULTS = {
    "kill -9 of a worker": kill_worker,
    "kill -9 of a client": kill_client,
    "SIGSTOP of a worker": freeze_worker,
    "SIGSTOP of a client": freeze_client,
}

OPERATIONS = {
    "jobs cancelled": cancel,
    "jobs retried": retry,
    "jobs deleted": delete,
    "jobs pruned": prune,
    "jobs rescued from the living": rescue,
}
