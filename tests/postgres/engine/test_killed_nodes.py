"""kill -9 of a node at every suspension of its job and of its acknowledgement (promises D1, W8, W9)."""

import asyncio
import sys

import pytest
from oban._recorded import decode_recorded

from tests.eventually import eventually
from tests.faults.strace import sample
from tests.processes.worker import Three

NEVER = 10**9


class Process:
    """A node that is killed at its n-th suspension, or lives."""

    @classmethod
    async def start(cls, url, n):
        self = cls()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.processes.node", url, str(n)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert await self.process.stdout.readline() == b"running\n"
        return self

    @property
    def has_ended(self):
        return self.process.returncode is not None

    async def stop(self):
        """Let it end; return how many suspensions it has met, None if it was killed."""
        self.process.stdin.close()
        line = await self.process.stdout.readline()
        ended_with = await asyncio.wait_for(self.process.wait(), 30)
        assert ended_with == (0 if line else -9)
        return int(line) if line else None


async def run_one_job(it, n):
    """Run a job on a node that is killed at suspension n, then on one that lives; say what the first one met."""
    job = await Three.enqueue()
    await it.engine.signal(job, "there", channel="first", key="first")
    node = await Process.start(it.url, n)

    async def is_completed():
        return (await it.oban.get_job(job.id)).state == "completed"

    async def third_awaited():
        return node.has_ended or (await it.ledger.state(job.id)).channel == "third" or await is_completed()

    async def ended():
        return node.has_ended or await is_completed()

    await eventually(third_awaited)
    await it.engine.signal(job, "later", channel="third", key="third")
    await eventually(ended)
    if node.has_ended:
        await it.oban._query.rescue_jobs(0)
        another = await Process.start(it.url, NEVER)
        await eventually(is_completed)
        await another.stop()
    met = await node.stop()
    done = await it.oban.get_job(job.id)
    assert decode_recorded(done.meta["return"]) == ["there", "timeout", "later"]
    kinds = await it.kinds(job)
    assert (kinds.count("delivered"), kinds.count("consumed"), kinds.count("timed_out")) == (2, 2, 1)
    assert kinds.count("closed") == 1
    return met


@pytest.mark.timeout(600)
async def test_d1_w8_w9_a_node_killed_at_any_suspension_loses_nothing_and_doubles_nothing(start, record_property):
    it = await start({})
    met = await run_one_job(it, NEVER)
    assert met > 4
    points = sample(range(1, met + 1), 10)
    # A run may meet fewer suspensions than another, but not many.
    kills = [await run_one_job(it, n) for n in points].count(None)
    assert kills >= len(points) - 2
    record_property("suspensions", met)
    record_property("kills", kills)
