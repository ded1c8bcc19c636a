"""kill -9 between storing and relaying, and in the middle of relaying (promises D1, D8)."""

import asyncio
import sys

import pytest
from oban import Job

from signal_ledger import lite, open_ledger
from tests.eventually import eventually
from tests.fault_figures import Account, Figures, Sent

COUNT = 14


class Relayer:
    """An engine process that relays, and may be killed at the n-th suspension of its watch."""

    def __init__(self, process):
        self.process = process

    @classmethod
    async def start(cls, *arguments):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.processes.relayer"),
            *map(str, arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        # It may be killed before it says that it is ready.
        await process.stdout.readline()
        return cls(process)

    @property
    def was_killed(self):
        return self.process.returncode == -9

    async def stop(self):
        self.process.stdin.close()
        await asyncio.wait_for(self.process.wait(), 20)


async def store(url, path, job_id):
    """Let a process store signals, commit, and be killed. Return their ids."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.processes.storer", url, path, str(job_id), str(COUNT)),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == -9
    return printed.decode().split()


async def store_and_relay(path, n):
    """Store in one process, relay in one that is killed at suspension n, then in one that lives.

    Return whether it was killed, and the figures.
    """
    url = f"sqlite:///{path}"
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Job("tests.Nobody"))
    ids = await store(url, path, job.id)
    relayer = await Relayer.start(url, n)
    async with open_ledger(url, read_only=True) as ledger:

        async def relayed():
            return relayer.process.returncode is not None or not await ledger.outbox()

        await eventually(relayed, timeout=30)
        if relayer.process.returncode is not None:
            assert relayer.was_killed
            left = len(await ledger.outbox())
            assert left % 4 == COUNT % 4 or left == 0, "a batch is relayed as a whole or not at all"
        was_killed = relayer.was_killed
        last = await Relayer.start(url)

        async def all_relayed():
            return not await ledger.outbox()

        await eventually(all_relayed, timeout=30)
        await last.stop()
        if not was_killed:
            await relayer.stop()
        history = await ledger.history(job.id)
        assert [event.signal_id for event in history] == ids
        assert [event.payload for event in history] == list(range(COUNT))
        report = await ledger.verify()
        assert report.ok, str(report)
        account = Account()
        account.acknowledged = [Sent(job.id, number, signal_id) for number, signal_id in enumerate(ids)]
        return was_killed, await account.figures(ledger)


@pytest.mark.timeout(300)
async def test_d1_d8_a_relay_killed_at_any_suspension_loses_nothing_and_doubles_nothing(tmp_path, record_property):
    kills, was_killed, figures = -1, True, Figures()
    while was_killed:
        kills += 1
        was_killed, of_one = await store_and_relay(tmp_path / f"{kills}.db", kills + 1)
        figures += of_one
    assert kills > 3, f"only {kills} suspensions were met"
    figures.record(record_property, happened=kills)
