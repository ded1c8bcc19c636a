"""kill -9 of a real worker process at every suspension of its job (promises D1, W8, W9)."""

import asyncio
import sys

import pytest
from oban._recorded import decode_recorded

from signal_ledger import lite
from tests.eventually import eventually
from tests.fault_figures import Account, Figures
from tests.processes.worker import Three


class Workers:
    """Worker processes, one at a time; the first is killed at a suspension, the next ones live."""

    def __init__(self, url):
        self.url = url
        self.process = None
        self.started = 0

    async def start(self, *arguments):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.processes.worker",
            self.url,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.started += 1
        assert await self.process.stdout.readline() == b"running\n"

    @property
    def was_killed(self):
        return self.process.returncode == -9

    async def stop(self):
        self.process.stdin.close()
        await asyncio.wait_for(self.process.wait(), 20)


async def run_one_job(url, n):
    """Run a job in a process that is killed at suspension n, then in one that lives.

    Return whether it was killed, and the figures.
    """
    workers = Workers(url)
    account = Account()
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Three.new())
        await account.signal(engine, job.id, "there", channel="first", key="first")
        await workers.start(str(n))

        async def third_awaited():
            if workers.process.returncode is not None:
                return True
            return (await engine.ledger.state(job.id)).channel == "third" or await completed()

        async def completed():
            return (await engine.get_job(job.id)).state == "completed"

        await eventually(third_awaited, timeout=30)
        await account.signal(engine, job.id, "later", channel="third", key="third")

        async def ended():
            return workers.process.returncode is not None or await completed()

        await eventually(ended, timeout=30)
        killed = workers.process.returncode is not None
        if killed:
            assert workers.was_killed
            await workers.start()
        await eventually(completed, timeout=30)
        await workers.stop()

        found = await engine.get_job(job.id)
        assert decode_recorded(found.meta["return"]) == ["there", "timeout", "later"]
        history = await engine.ledger.history(job.id)
        kinds = [recorded.kind.value for recorded in history]
        assert (kinds.count("delivered"), kinds.count("consumed"), kinds.count("timed_out")) == (2, 2, 1)
        assert kinds.count("closed") == 1
        report = await engine.ledger.verify()
        assert report.ok, str(report)
        return killed, await account.figures(engine.ledger)


@pytest.mark.timeout(600)
async def test_d1_w8_w9_a_worker_killed_at_any_suspension_loses_nothing_and_doubles_nothing(tmp_path, record_property):
    kills, was_killed, figures = -1, True, Figures()
    while was_killed:
        kills += 1
        was_killed, of_one = await run_one_job(f"sqlite:///{tmp_path}/{kills}.db", kills + 1)
        figures += of_one
    assert kills > 7, f"only {kills} suspensions were met"
    figures.record(record_property, happened=kills)
