"""The embedded engine under torture: one SQLite file, and what can be done to it."""

import asyncio
import contextlib
import datetime as dt
import sqlite3
import sys
from pathlib import Path

from signal_ledger import lite
from signal_ledger.embedded.operations import PruneJobs, RescueJobs
from tests.torture.client import TASKS
from tests.torture.history import JobSeen


class LiteSite:
    """See `run.Run` for what a site is asked."""

    engine_name = "lite"
    freeze_worker_s = (0.5, 2.5)
    # After work without faults: to write, to read, and to hear of others' commits. SQLite keeps the files of a client's
    # own connections, which were closed, for the next ones.
    connections_max = {"worker": 3, "client": 3 + TASKS}

    def __init__(self, folder, engine):
        self._path = folder / "signals.db"
        self._engine = engine
        self.url = f"sqlite:///{self._path}"
        self.faults = {"another process holds the write lock": self._hold_lock}

    @property
    def ledger(self):
        return self._engine.ledger

    def url_of(self, number):
        return self.url

    async def enqueue(self, jobs):
        return [job.id for job in await self._engine.enqueue_many(jobs)]

    async def jobs(self):
        return {job_id: JobSeen(state=state) for job_id, state in self._query("SELECT id, state FROM oban_jobs")}

    async def cancel(self, job_ids):
        return await self._engine.cancel_many_jobs(job_ids)

    async def retry(self, job_ids):
        return await self._engine.retry_many_jobs(job_ids)

    async def delete(self, job_ids):
        return await self._engine.delete_many_jobs(job_ids)

    async def prune(self, age_s):
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_s)
        return await self._engine._store.transact(PruneJobs(before=before, limit=1000))

    async def rescue(self):
        """As if the lock file of an engine had been lost."""
        nodes = self._query("SELECT node FROM oban_jobs WHERE state = 'executing' GROUP BY node ORDER BY random()")
        return await self._engine._store.transact(RescueJobs(node=nodes[0][0])) if nodes else 0

    async def _hold_lock(self, _run, rng):
        seconds = rng.uniform(0.5, 2.5)
        holder = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.torture.locker", str(self._path), str(seconds)),
            stdout=asyncio.subprocess.PIPE,
        )
        was_held = await holder.stdout.readline() == b"ready\n"
        return int(was_held and await holder.wait() == 0)

    async def connections(self, children):
        """How many connections each child has."""
        return {child: count_of(child.pid, self._path) for child in children}

    async def heal(self):
        """Nothing is broken for longer than its fault."""

    async def keep_up(self):
        """Engines see to themselves."""

    async def held(self):
        """What is held while all is idle."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=1.0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError as error:
                return [f"the write lock: {error}"]
        return []

    async def left(self):
        """What is left of the processes that have ended."""
        return await self.held()

    def _query(self, sql):
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as connection:
            return connection.execute(sql).fetchall()


def count_of(pid, path):
    """How often a process has a file open."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += descriptor.readlink() == path
    return count


@contextlib.asynccontextmanager
async def lite_site(folder):
    """Open a fresh file in a folder."""
    async with lite(f"sqlite:///{folder / 'signals.db'}", queues={}, prune_after=None) as engine:
        yield LiteSite(folder, engine)
