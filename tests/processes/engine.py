"""An engine process: ``python -m tests.processes.engine URL [LOOK_S]`` runs the queue until its input closes."""

import asyncio
import sys

from oban import Record, worker

from signal_ledger import await_signal, lite
from signal_ledger_adapters.lite import watch


@worker()
class Gather:
    """Takes as many signals of each channel as its args say, by turns, and records what it got."""

    async def process(self, job):
        got = {channel: [] for channel in job.args["counts"]}
        while waits := [channel for channel, count in job.args["counts"].items() if len(got[channel]) < count]:
            for channel in waits:
                payload = await await_signal(wait_timeout=job.args["window"], channel=channel or None)
                got[channel].append(payload)
        return Record(got)


async def main():
    if len(sys.argv) > 2:
        assert watch.LOOK_S > 0
        watch.LOOK_S = float(sys.argv[2])
    async with lite(sys.argv[1]):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    # Workers are found by their module's name, which must be the same in every process.
    from tests.processes import engine as this

    asyncio.run(this.main())
