"""A worker process: ``python -m tests.torture.worker ENGINE URL FOLDER NAME`` runs jobs until its input closes.

Each line of its input asks for a report of what it holds. Every execution writes down what each await gave it.
"""

import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from oban import Oban, worker
from psycopg_pool import AsyncConnectionPool

from signal_ledger import SignalTimeout, StaleExecution, attach, await_signal, lite
from signal_ledger.codec import encode_with_digest
from signal_ledger_adapters.oban.attachment import attachment_of
from signal_ledger_adapters.oban_api import execution_of, query_of
from tests.torture.holdings import report
from tests.torture.processes import named, opened, tell_if_stuck
from tests.torture.records import Recorder

SLOTS = 8
CONNECTIONS = 5
"""Of Oban's pool: always as many, so that it can be told when there are too many."""
GIVES_UP_AFTER_S = 0.005

written = []
"""Where this process writes down what it sees."""


def write(what, **fields):
    written[0].write(what, **fields)


class PlannedError(Exception):
    """A worker fails, as planned."""


@worker(max_attempts=30_000)
class Tortured:
    """Follows its script: one await after the other, in every execution from the top."""

    async def process(self, job):
        token = execution_of(job).token
        chances = random.Random(f"{job.args['seed']}/{token}")
        counts = Counter()
        write("began", job=job.id, execution=token, attempt=job.attempt)
        try:
            for step in job.args["steps"]:
                if chances.random() < job.args["fails"]:
                    raise PlannedError
                if chances.random() < 0.2:
                    await asyncio.sleep(chances.random() * 0.05)
                counts[step["channel"]] += 1
                await self._follow(job, token, step, counts[step["channel"]], gives_up=chances.random() < 0.05)
        except StaleExecution:
            write("superseded", job=job.id, execution=token)
            raise

    def backoff(self, job):
        return 0

    async def _follow(self, job, token, step, ordinal, *, gives_up):
        outcome, digest = "signal", None
        try:
            value = await (self._wait_again(step) if gives_up else self._wait(step))
            digest = encode_with_digest(value).digest
        except SignalTimeout:
            outcome = "timeout"
        write(
            "saw",
            job=job.id,
            execution=token,
            channel=step["channel"],
            ordinal=ordinal,
            outcome=outcome,
            digest=digest,
        )

    async def _wait(self, step):
        return await await_signal(
            wait_for=step["wait_for"], wait_timeout=step["window"], channel=step["channel"] or None
        )

    async def _wait_again(self, step):
        """Begin to wait and give it up, wherever it is; the next await goes on with that wait."""
        first = asyncio.ensure_future(self._wait(step))
        await asyncio.wait([first], timeout=GIVES_UP_AFTER_S)
        first.cancel()
        try:
            return await first
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():
                raise
        return await self._wait(step)


@contextlib.asynccontextmanager
async def _lite(url):
    """The embedded engine, and what tells which jobs wait live."""
    engine = lite(url, queues={"default": SLOTS}, shutdown_grace_period=5.0)
    async with engine:
        yield lambda: [job_id for queue in engine._queues.values() for job_id in queue.room.job_ids]


@contextlib.asynccontextmanager
async def _postgres(url):
    async with AsyncConnectionPool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False) as pool:
        oban = Oban(pool=pool, queues={"default": SLOTS}, stager={"interval": 0.2}, shutdown_grace_period=5.0)
        async with attach(oban):
            yield lambda: [job_id for job_id, _ in attachment_of(query_of(oban)).live]


async def main():
    engine, url, folder, name = sys.argv[1:]
    url = named(url, "worker", name)
    written.append(Recorder(Path(folder) / f"worker-{quote(name)}.jsonl"))
    async with contextlib.AsyncExitStack() as stack:
        live = await stack.enter_async_context(await opened(lambda: _lite(url) if engine == "lite" else _postgres(url)))
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(report(live())), flush=True)
        tell_if_stuck()


if __name__ == "__main__":
    # Workers are found by their module's name, which must be the same in every process.
    from tests.torture import worker as this

    asyncio.run(this.main())
