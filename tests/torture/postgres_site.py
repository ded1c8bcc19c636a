"""Oban on PostgreSQL under torture: a cluster of its own, and what can be done to it."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from urllib.parse import quote

import psycopg
from oban import Oban
from oban._query import Query
from psycopg_pool import AsyncConnectionPool

from signal_ledger import migrate, open_ledger
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.eventually import eventually
from tests.postgres.proxy import proxy
from tests.postgres.version import wanted_version
from tests.torture.history import JobSeen
from tests.torture.processes import state_of
from tests.torture.worker import CONNECTIONS

RESCUE_AFTER_S = 2.0
DEADLOCK_S = 20.0
_OTHERS = "datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
_DROP_NOTIFICATIONS = """
CREATE SEQUENCE IF NOT EXISTS public.notifications_dropped;
CREATE OR REPLACE FUNCTION signal_ledger.notify(channel text, message json) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN PERFORM nextval('public.notifications_dropped'); END; $$
"""
# The sequence begins with 1, whether that has been drawn or not.
_DROPPED = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.notifications_dropped"


class PostgresSite:
    """See `run.Run` for what a site is asked."""

    engine_name = "postgres"
    # Longer than the age of rescue.
    freeze_worker_s = (RESCUE_AFTER_S + 0.5, RESCUE_AFTER_S + 1.5)
    # After work without faults. A worker: Oban's, the listener, the one that checked the schema, two for takes and one
    # for those that meet locks, one for questions and one for relays. A client: the one that checked, two for
    # deliveries and one for those that meet locks, and one for questions about payloads.
    connections_max = {"worker": CONNECTIONS + 7, "client": 5}

    def __init__(self, cluster, url, oban, ledger, proxy_server, proxy_url, stack):
        self._cluster = cluster
        self._oban = oban
        self._proxy = proxy_server
        self._proxy_url = proxy_url
        self._stack = stack
        self.url = url
        self.ledger = ledger
        with psycopg.connect(url) as connection:
            [self._notify] = connection.execute(
                "SELECT pg_get_functiondef('signal_ledger.notify(text, json)'::regprocedure)"
            ).fetchone()
        self.faults = {
            "crash of the server": self._crash,
            "backends terminated": self._terminate,
            "SIGSTOP of the server": self._freeze,
            "listeners killed": self._kill_listeners,
            "replies lost after the commit": self._lose_replies,
            "notifications dropped": self._drop_notifications,
            "deadlocks with others": self._lock_backwards,
        }

    def url_of(self, number):
        """Every other process goes through the proxy."""
        return self._proxy_url if number % 2 else self.url

    async def enqueue(self, jobs):
        return [job.id for job in await self._patiently(lambda: self._oban.enqueue_many(jobs))]

    async def jobs(self):
        rows = await self._patiently(lambda: self._sql("SELECT id, state::text FROM oban_jobs"))
        return {job_id: JobSeen(state=state) for job_id, state in rows}

    async def cancel(self, job_ids):
        return await self._patiently(lambda: self._oban.cancel_many_jobs(job_ids))

    async def retry(self, job_ids):
        return await self._patiently(lambda: self._oban.retry_many_jobs(job_ids))

    async def delete(self, job_ids):
        return await self._patiently(lambda: self._oban.delete_many_jobs(job_ids))

    async def prune(self, age_s):
        return await self._patiently(lambda: self._oban._query.prune_jobs(age_s, 1000))

    async def rescue(self):
        return await self._patiently(lambda: self._oban._query.rescue_jobs(0.1))

    async def keep_up(self):
        """Rescue as a leader's lifeline does, which a killed leader leaves to the next one only after half a minute."""
        await self._patiently(lambda: self._oban._query.rescue_jobs(RESCUE_AFTER_S))

    async def connections(self, children):
        """How many connections each child has, as the server knows them."""
        rows = await self._patiently(
            lambda: self._sql(f"SELECT application_name, count(*) FROM pg_stat_activity WHERE {_OTHERS} GROUP BY 1")
        )
        counts = dict(rows)
        return {child: counts.get(f"{child.role}-{child.name}", 0) for child in children}

    async def heal(self):
        self._proxy.loses = 0
        await asyncio.to_thread(self._cluster.start)
        await self._patiently(lambda: self._sql(self._notify))

    async def held(self):
        """What is held while all is idle."""
        found = await self._sql(
            f"SELECT format('%s: %s, %s', application_name, state, query) FROM pg_stat_activity "
            f"WHERE {_OTHERS} AND state LIKE 'idle in transaction%' AND state_change < now() - interval '1 s'"
        )
        found += await self._sql(
            f"SELECT format('%s: %s', application_name, query) FROM pg_stat_activity "
            f"WHERE {_OTHERS} AND application_name LIKE 'own-%'"
        )
        found += await self._sql(
            "SELECT format('%s on %s, granted: %s', mode, locktype, granted) FROM pg_locks "
            "WHERE locktype = 'advisory' OR NOT granted"
        )
        return [row for (row,) in found]

    async def left(self):
        """What is left of the processes that have ended, once the director's own connections are closed."""
        await self._stack.aclose()
        found = []

        async def nothing_is_left():
            # What counts is the last look: another one might see the connection of this one.
            found[:] = await self._sql(
                f"SELECT format('%s: %s, %s', pid, state, query) FROM pg_stat_activity WHERE {_OTHERS}"
            )
            return not found

        with contextlib.suppress(AssertionError):
            await eventually(nothing_is_left, timeout=10)
        return [row for (row,) in found]

    async def _crash(self, _run, rng):
        before = self._cluster.postmaster_pid
        await asyncio.to_thread(self._cluster.stop, "immediate")
        await asyncio.sleep(rng.random() * 1.5)
        begins = self._cluster.log.stat().st_size
        await asyncio.to_thread(self._cluster.start)
        said = self._cluster.log.read_bytes()[begins:]
        return int(self._cluster.postmaster_pid != before and b"was not properly shut down" in said)

    async def _terminate(self, _run, _rng):
        rows = await self._sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OTHERS}")
        return sum(done for (done,) in rows)

    async def _freeze(self, _run, rng):
        pids = [self._cluster.postmaster_pid]
        try:
            os.kill(pids[0], signal.SIGSTOP)
            # Each backend has a process group of its own.
            pids += [int(pid) for pid in Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()]
            for pid in pids[1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            await eventually(lambda: all(state_of(pid) in "TZ" for pid in pids), timeout=5)
            await asyncio.sleep(rng.uniform(1.0, 4.0))
            was_frozen = all(state_of(pid) in "TZ" for pid in pids)
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return int(was_frozen)

    async def _kill_listeners(self, _run, _rng):
        async def killed():
            rows = await self._sql(
                # What Oban's notifier says on its connection: after half a minute of listening, its heart beats.
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE {_OTHERS} AND (query ILIKE 'listen%' OR query = 'SELECT 1')"
            )
            return sum(done for (done,) in rows)

        return await eventually(killed, timeout=10)

    async def _lose_replies(self, _run, rng):
        before = self._proxy.lost
        for _ in range(rng.randint(1, 4)):
            seen = self._proxy.lost
            self._proxy.loses += 1
            with contextlib.suppress(AssertionError):
                await eventually(lambda seen=seen: self._proxy.lost > seen, timeout=5)
        return self._proxy.lost - before

    async def _drop_notifications(self, _run, rng):
        await self._sql(_DROP_NOTIFICATIONS)
        [[before]] = await self._sql(_DROPPED)
        await asyncio.sleep(rng.uniform(1.0, 3.0))
        await self._patiently(lambda: self._sql(self._notify))
        [[after]] = await self._sql(_DROPPED)
        return after - before

    async def _lock_backwards(self, run, rng):
        """Whatever else an application does with its jobs, in whatever order, until there has been a deadlock."""
        before = await self._deadlocks()
        ends = asyncio.get_running_loop().time() + DEADLOCK_S
        while asyncio.get_running_loop().time() < ends and await self._deadlocks() == before:
            with contextlib.suppress(psycopg.errors.DeadlockDetected):
                async with await self._connect() as connection, connection.transaction():
                    for job_id in sorted(run.some_jobs(rng, 12), reverse=True):
                        await connection.execute("UPDATE oban_jobs SET priority = 1 - priority WHERE id = %s", [job_id])
        return await self._deadlocks() - before

    async def _deadlocks(self):
        [[count]] = await self._sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return count

    async def _connect(self):
        return await psycopg.AsyncConnection.connect(self.url, autocommit=True, connect_timeout=5)

    async def _sql(self, statement):
        async with await self._connect() as connection:
            cursor = await connection.execute(statement)
            return await cursor.fetchall() if cursor.description else []

    async def _patiently(self, act):
        """Do what other transactions, or a server that is down, may be in the way of."""
        ends = asyncio.get_running_loop().time() + 60
        while True:
            try:
                return await act()
            except (psycopg.Error, OSError):
                if asyncio.get_running_loop().time() > ends:
                    raise
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def postgres_site(_folder):
    """Start a cluster with a ledger."""
    with scratch_cluster(wanted_version(), durable=False, settings={"deadlock_timeout": "50ms"}) as cluster:
        url = cluster.create_database("torture")
        async with proxy(cluster.folder, cluster.port) as (proxy_server, proxy_folder):
            through = url.replace(quote(str(cluster.folder)), quote(proxy_folder))
            assert through != url
            async with contextlib.AsyncExitStack() as stack:
                pool = await stack.enter_async_context(AsyncConnectionPool(url, min_size=0, max_size=4, open=False))
                await Query(pool).install()
                await migrate(url)
                ledger = await stack.enter_async_context(open_ledger(url))
                oban = Oban(pool=pool, name="operator")
                yield PostgresSite(cluster, url, oban, ledger, proxy_server, through, stack)
