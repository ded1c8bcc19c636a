"""kill -9 of a node at every suspension of its jobs, acknowledgements, lanes and relays (promises D1, W8, W9)."""

import asyncio
import contextlib
import json
import signal
import sys

import psycopg
import pytest
from oban import Job
from oban._recorded import decode_recorded

from tests.eventually import eventually
from tests.fault_figures import Account
from tests.postgres.engine.killing import KINDS, STOP, Four

NEVER = 10**9

SURVIVALS, SURVIVALS_MAX = 3, 20
"""How many nodes in a row must live before there is no such suspension; more, if all that lived before met it."""


class Nursery:
    """Nodes in processes of their own, one at a time; see `tests.postgres.engine.killing`."""

    def __init__(self, process):
        self._process = process
        self._said = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, url):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.postgres.engine.killing", url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self = cls(process)
        listening = asyncio.create_task(self._listen())
        try:
            await eventually(lambda: self._said)
            yield self
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), 30) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await listening

    async def _listen(self):
        while line := await self._process.stdout.readline():
            self._said |= json.loads(line)

    @property
    def has_ended(self):
        return "ended_with" in self._said

    async def start(self, kind, n):
        """Start a node that is killed at the n-th suspension of that kind, and wait until it runs or is dead."""
        self._said.clear()
        self._process.stdin.write(f"{kind} {n}\n".encode())
        await eventually(lambda: "running" in self._said or self.has_ended)

    async def stop(self):
        """Let it end; return how many suspensions it has met, None if it was killed."""
        self._process.stdin.write(STOP.encode())
        await eventually(lambda: self.has_ended)
        met = self._said.get("met")
        assert self._said["ended_with"] == (-signal.SIGKILL if met is None else 0), self._said.get("failed")
        return met


async def run_one_job(it, nursery, kind, n, account):
    """Run a job on a node that is killed, and then on one that lives; return what the first one met, or None."""
    other = await it.oban.enqueue(Job("tests.Nobody", queue="nobody"))
    job = await it.engine.enqueue(Four.new({"other": other.id}))
    await account.signal(it.engine, job.id, "there", channel="first", key="first")
    await nursery.start(kind, n)

    def is_completed():
        return it.sql("SELECT state::text FROM oban_jobs WHERE id = %s", job.id) == [("completed",)]

    async def third_awaited():
        return nursery.has_ended or (await it.ledger.state(job.id)).channel == "third"

    async def is_relayed():
        # The server may not know yet that the node is dead, which held the lock of relays.
        await it.engine._store.relay()
        return await it.ledger.outbox() == []

    await eventually(third_awaited)
    # Stored by a caller: the node relays it.
    async with await psycopg.AsyncConnection.connect(it.url) as connection:
        await account.signal(it.engine, job.id, "later", channel="third", key="third", conn=connection)
    await eventually(lambda: nursery.has_ended or is_completed())
    met = await nursery.stop()
    if not is_completed():
        # On the queue of the node that lives.
        await it.change("UPDATE oban_jobs SET queue = 'rescue' WHERE id = %s", job.id)
        await it.oban._query.rescue_jobs(0)
        it.sql("SELECT pg_notify('public.oban_insert', %s)", json.dumps({"queue": "rescue"}))
        await eventually(third_awaited_or(it, job, is_completed))
        await eventually(is_relayed)
        await eventually(is_completed)
    done = await it.oban.get_job(job.id)
    assert (decode_recorded(done.meta["return"]), done.errors) == (["there", "timeout", "later"], [])
    kinds = await it.kinds(job)
    assert (kinds.count("delivered"), kinds.count("consumed"), kinds.count("timed_out")) == (2, 2, 1)
    assert kinds.count("closed") == 1
    assert await it.kinds(other) == ["delivered"]
    assert await it.ledger.outbox() == []
    return met


def third_awaited_or(it, job, is_completed):
    async def there():
        return (await it.ledger.state(job.id)).channel == "third" or is_completed()

    return there


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
async def test_d1_w8_w9_a_node_killed_at_any_suspension_loses_nothing_and_doubles_nothing(
    start, ledger_url, kind, record_property
):
    it = await start({"rescue": 2}, stager={"interval": 0.1})
    # Relays are the node's.
    await it.engine._watch.stop()
    account, kills, survived = Account(), 0, 0
    async with Nursery.started(ledger_url) as nursery:
        met = [(await run_one_job(it, nursery, kind, NEVER, account))[kind] for _ in range(3)]
        # How often a node asks for what is due depends on how long it takes, and so on what else the machine does.
        wanted = max(1, min(met) // 2) if kind == "upkeep" else min(met)
        while survived < (SURVIVALS if kills >= wanted else SURVIVALS_MAX):
            if await run_one_job(it, nursery, kind, kills + 1, account) is None:
                kills += 1
                survived = 0
            else:
                survived += 1
    await it.engine._watch.start()
    record_property("suspensions of whole runs", met)
    assert kills >= wanted >= 1
    # Each at the next suspension.
    (await account.figures(it.ledger)).record(record_property, happened=kills)
