"""A process of the stress test: ``python -m tests.processes.stress ROLE URL REPORT SEED``.

The roles: ``engine`` runs the queue, ``client`` signals, ``chaos`` cancels, retries, rescues and deletes. The jobs are
there already. It begins when it is told to go, ends when it is told to stop, and writes what it did and met into the
report.
"""

import asyncio
import contextlib
import json
import logging
import random
import sys
from collections import Counter
from pathlib import Path

import psycopg
from oban import Oban, Record, worker
from psycopg_pool import AsyncConnectionPool

from signal_ledger import SignalTimeout, attach, await_signal, open_ledger

KEYS = 8
STOP = "stop"

met = Counter()
"""What this process met, and made up for."""


class FlakyError(Exception):
    pass


class Meetings(logging.Handler):
    """Counts what the library says of its own retries."""

    SAID = {
        "a batch of": "batch run again",
        "an acknowledgement is tried again": "acknowledgement run again",
        "jobs are acknowledged one by one": "acknowledgements one by one",
        "the ledger failed": "failed",
    }

    def emit(self, record):
        for begins, name in self.SAID.items():
            if begins in record.getMessage():
                met[name] += 1


@worker(max_attempts=30_000)
class Eater:
    """Takes signals, and timeouts, until it is told to stop; fails now and then, and begins anew."""

    async def process(self, job):
        got = []
        while not got or got[-1] != STOP:
            try:
                got.append(await await_signal(wait_for=job.args["wait_for"], wait_timeout=job.args["window"]))
            except SignalTimeout:
                got.append("timeout")
            if random.random() < 0.05:
                met["failure"] += 1
                raise FlakyError
        return Record(got)

    def backoff(self, job):
        return 0


async def engine(url, rng, told_to_stop):
    async with (
        AsyncConnectionPool(url, min_size=1, max_size=5, open=False) as pool,
        attach(Oban(pool=pool, queues={"default": 8}, stager={"interval": 0.2})),
    ):
        await told_to_stop.wait()
    return []


async def client(url, rng, told_to_stop):
    receipts = []
    async with open_ledger(url) as ledger, AsyncConnectionPool(url, min_size=1, max_size=1, open=False) as pool:
        async with pool.connection() as connection:
            job_ids = [row[0] for row in await (await connection.execute("SELECT id FROM oban_jobs")).fetchall()]

        async def call(number):
            while not told_to_stop.is_set():
                targets = rng.sample(job_ids, rng.choice([1, 1, 2, 4, 10]))
                options = {"source": f"{number}", "payload": rng.random()}
                if rng.random() < 0.4:
                    key = rng.randrange(KEYS)
                    options |= {"key": f"key-{key}", "payload": {"key": key}}
                elif rng.random() < 0.2:
                    options |= {"channel": "votes"}
                told = await ledger.signal(targets if len(targets) > 1 else targets[0], **options)
                for receipt in told if isinstance(told, list) else [told]:
                    receipts.append(
                        {
                            "job_id": receipt.job_id,
                            "outcome": receipt.outcome,
                            "signal_id": receipt.signal_id,
                            "version": receipt.version,
                            "key": options.get("key"),
                            "payload": options["payload"],
                        }
                    )
                await asyncio.sleep(rng.random() * 0.2)

        await asyncio.gather(*[call(number) for number in range(2)])
    return receipts


async def chaos(url, rng, told_to_stop):
    async with AsyncConnectionPool(url, min_size=1, max_size=5, open=False) as pool:
        oban = Oban(pool=pool, name="chaos")
        async with pool.connection() as connection:
            job_ids = [row[0] for row in await (await connection.execute("SELECT id FROM oban_jobs")).fetchall()]

        async def again_and_again(what, act, delay_s):
            while not told_to_stop.is_set():
                await asyncio.sleep(rng.random() * 2 * delay_s)
                try:
                    met[what] += await act() or 0
                except psycopg.errors.DeadlockDetected:
                    met["victim of a deadlock"] += 1

        async def backwards():
            """Whatever else an application does with its jobs, in whatever order."""
            async with pool.connection() as connection, connection.transaction():
                for job_id in sorted(rng.sample(job_ids, 8), reverse=True):
                    await connection.execute("UPDATE oban_jobs SET priority = 1 - priority WHERE id = %s", [job_id])
            return 1

        # Some are left alone, for the signals that must arrive.
        await asyncio.gather(
            again_and_again("cancels", lambda: oban.cancel_many_jobs(rng.sample(job_ids[10:], 3)), 0.15),
            again_and_again("retries", lambda: oban.retry_many_jobs(rng.sample(job_ids[10:], 5)), 0.1),
            again_and_again("rescues", lambda: oban._query.rescue_jobs(rescue_after=0.1), 0.15),
            again_and_again("deletes", lambda: oban.delete_many_jobs(rng.sample(job_ids[10:], 1)), 0.6),
            again_and_again("others", backwards, 0.01),
        )
    return []


async def main():
    role, url, report, seed = sys.argv[1:]
    random.seed(int(seed))
    logging.getLogger("signal_ledger_adapters").setLevel(logging.DEBUG)
    logging.getLogger("signal_ledger_adapters").addHandler(Meetings())
    told_to_stop = asyncio.Event()

    async def listen():
        await asyncio.to_thread(sys.stdin.readline)
        told_to_stop.set()

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    listening = asyncio.create_task(listen())
    receipts = await {"engine": engine, "client": client, "chaos": chaos}[role](
        url, random.Random(int(seed)), told_to_stop
    )
    await listening
    Path(report).write_text(json.dumps({"met": met, "receipts": receipts}))


if __name__ == "__main__":
    # Workers are found by their module's name, which must be the same in every process.
    from tests.processes import stress as this

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(this.main())
