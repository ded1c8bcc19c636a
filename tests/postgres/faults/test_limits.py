"""Limits of the database: on connections, on time, on writing, on space. Told while they last; nothing is lost (D1)."""

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import AsyncConnectionPool

from signal_ledger import DeliveryUnknown, attach, open_ledger
from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.eventually import eventually
from tests.postgres.conftest import install
from tests.postgres.engine.conftest import Node, an_oban, query
from tests.postgres.engine.workers import APPROVED, SEEN, Approval
from tests.postgres.faults.load import Load
from tests.postgres.faults.server import connections, terminate
from tests.postgres.faults.workers import collectors, have_consumed_all
from tests.postgres.version import wanted_version
from tests.requirements import require_program


def name_of(url):
    [[name]] = query(url, "SELECT current_database()")
    return name


def as_role(url, role):
    """The URL for a role, which is made, and may do everything."""
    query(url, f"DROP ROLE IF EXISTS {role}")
    query(url, f"CREATE ROLE {role} SUPERUSER LOGIN")
    return url.replace("postgres@", f"{role}@")


def grant(url):
    """Superusers have no limits: let the role do without."""
    query(url, "ALTER ROLE limited NOSUPERUSER")
    query(url, "GRANT USAGE ON SCHEMA signal_ledger TO limited")
    query(url, "GRANT ALL ON ALL TABLES IN SCHEMA signal_ledger, public TO limited")
    query(url, "GRANT ALL ON ALL SEQUENCES IN SCHEMA signal_ledger, public TO limited")


async def plays(node):
    """Whatever is said to a node, jobs wait and go on."""
    jobs = await node.engine.enqueue_many(Approval.new({"window": window}) for window in (0, 60))
    for job, status in zip(jobs, ("snoozed", "live"), strict=True):
        await node.until_status(job, status)
    for job in jobs:
        await node.engine.signal(job, APPROVED)
        ended = await node.until(job, "completed")
        assert ended.errors == []
        assert (await node.kinds(job)).count("consumed") == 1
    assert SEEN == [APPROVED] * 2


LIMITS = [
    ("statement_timeout", "100ms", errors.QueryCanceled),
    ("lock_timeout", "1ms", errors.LockNotAvailable),
    ("idle_in_transaction_session_timeout", "200ms", errors.IdleInTransactionSessionTimeout),
    ("transaction_timeout", "200ms", errors.TransactionTimeout),
]

LOCK = "SELECT FROM oban_jobs WHERE id = %s FOR NO KEY UPDATE"


async def wait_beyond(ledger_url, url, job_id, limit):
    """Wait on a plain connection for a job that is locked, or do nothing in a transaction; return what it met."""
    plain = await psycopg.AsyncConnection.connect(url)
    try:
        if limit is errors.IdleInTransactionSessionTimeout:
            await plain.execute("SELECT")
            alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
            await eventually(lambda: query(ledger_url, alive, plain.info.backend_pid) == [(0,)], timeout=10)
            # Nothing else ends it. What the driver says is the limit's name, or that the connection is lost.
            return limit
        async with asyncio.timeout(10):
            await plain.execute(LOCK, [job_id])
    except psycopg.Error as error:
        return type(error)
    finally:
        await plain.close()


async def waits_for_a_lock(node, ledger, url, limit):
    """Have a signal wait for as long as the limit cuts a plain connection of the role; return how often it did."""
    SEEN.clear()
    job = await node.engine.enqueue(Approval.new({"window": 0}))
    await node.until_status(job, "snoozed")
    async with await psycopg.AsyncConnection.connect(node.url) as other:
        await other.execute(LOCK, [job.id])
        waiting = asyncio.create_task(ledger.signal(job, APPROVED))
        cut = [await wait_beyond(node.url, url, job.id, limit) for _ in range(3)]
        assert not waiting.done()
    assert (await waiting).outcome == "woken"
    await node.until(job, "completed")
    assert SEEN == [APPROVED]
    assert cut == [limit] * 3
    return len(cut)


@pytest.mark.parametrize(("name", "value", "error"), LIMITS, ids=[name for name, *_ in LIMITS])
async def test_d1_limits_on_time_break_nothing_for_good(cluster, ledger_url, name, value, error, record_property):
    if name == "transaction_timeout" and cluster.version < 17:
        pytest.skip("PostgreSQL has it from 17 on")
    url = as_role(ledger_url, "limited")
    query(ledger_url, f"ALTER ROLE limited SET {name} = '{value}'")
    # Oban's pool would give out connections that the server has closed.
    checked = {"check": AsyncConnectionPool.check_connection}
    async with an_oban(url, pool_options=checked) as oban, attach(oban) as engine, open_ledger(url) as ledger:
        node = Node(ledger_url, oban, engine)
        await plays(node)
        jobs = await collectors(node, 4)
        load = Load(ledger, [job.id for job in jobs], timeout=30)
        async with load.running(8):
            await eventually(load.has_sent(200))
        # One that takes longer than the limit, in one statement.
        many = query(
            ledger_url,
            "INSERT INTO oban_jobs (worker, state, scheduled_at) "
            "SELECT 'w', 'scheduled', now() + interval '1 hour' FROM generate_series(1, 3000) RETURNING id",
        )
        await ledger.signal([job_id for [job_id] in many], APPROVED)
        cut = await waits_for_a_lock(node, ledger, url, error)
        await load.figures(ledger, record_property, happened=cut)
        await have_consumed_all(node, jobs)
    async with open_ledger(ledger_url) as ledger:
        assert (await ledger.verify()).ok
    query(ledger_url, "DROP ROLE limited")


async def test_connections_that_the_server_ends_when_they_are_idle_are_opened_anew(ledger_url):
    url = as_role(ledger_url, "limited")
    query(ledger_url, "ALTER ROLE limited SET idle_session_timeout = '300ms'")
    [[job_id]] = query(ledger_url, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
    async with open_ledger(url) as ledger:
        for number in range(3):
            await ledger.signal(job_id, number, timeout=5)
            assert len(await ledger.history(job_id)) == number + 1
            await eventually(lambda: connections(ledger_url) == (0, 0))
    query(ledger_url, "DROP ROLE limited")


async def test_d1_while_all_connections_are_taken_signals_wait_and_say_why(ledger_url):
    """The limit of a role; that of the whole server is told in the same way."""
    url = as_role(ledger_url, "limited")
    grant(ledger_url)
    query(ledger_url, "ALTER ROLE limited CONNECTION LIMIT 2")
    [[job_id]] = query(ledger_url, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
    async with open_ledger(url) as ledger:
        await ledger.history(job_id)
        with contextlib.ExitStack() as stack:
            others = stack.enter_context(psycopg.connect(url))
            with pytest.raises(DeliveryUnknown) as unknown:
                await ledger.signal(job_id, 1, timeout=0.5)
            assert "TooManyConnectionsError" in str(unknown.value.__cause__)
            assert len(await ledger.history(job_id)) == 0
            terminate(ledger_url, "query = 'ROLLBACK;'")
            stack.enter_context(psycopg.connect(url))
            with pytest.raises(StoreUnavailableError, match="TooManyConnectionsError"):
                await ledger.history(job_id)
            waiting = asyncio.create_task(ledger.signal(job_id, 2))
            await asyncio.wait([waiting], timeout=0.3)
            assert not waiting.done()
            others.close()
            assert (await waiting).outcome == "buffered"
        # The server may not know yet that the other one is closed.
        await eventually(lambda: connections(ledger_url)[0] == 1)
        assert [event.payload for event in await ledger.history(job_id)] == [2]
    query(ledger_url, "DROP OWNED BY limited; DROP ROLE limited")


async def test_d1_workers_that_get_no_connection_wait_and_go_on(ledger_url, record_property):
    """All that they had are ended, and no other is to be had for a while, as when others have taken them all."""
    url = as_role(ledger_url, "limited")
    grant(ledger_url)
    async with an_oban(url) as oban, attach(oban) as engine, open_ledger(url) as ledger:
        node = Node(ledger_url, oban, engine)
        jobs = await collectors(node, 4)
        load = Load(ledger, [job.id for job in jobs], timeout=0.5)
        async with load.running(4):
            await eventually(load.has_sent(50))
            query(ledger_url, "ALTER ROLE limited CONNECTION LIMIT 0")
            ended = terminate(ledger_url, "usename = 'limited'")
            assert ended > 3
            await eventually(lambda: len(load.unknown) >= 8)
            query(ledger_url, "ALTER ROLE limited CONNECTION LIMIT -1")
            await eventually(load.has_sent(50))
        await load.figures(ledger, record_property, happened=ended)
        await have_consumed_all(node, jobs)
    await eventually(lambda: connections(ledger_url) == (0, 0))
    query(ledger_url, "DROP OWNED BY limited; DROP ROLE limited")


async def test_d1_while_others_have_all_connections_of_the_server_everybody_waits_and_goes_on(record_property):
    """Each that becomes free they take at once; so do those that were ended of a node and of who signals."""
    with scratch_cluster(wanted_version(), durable=False, settings={"max_connections": "25"}) as small:
        superuser = small.create_database("small")
        await install(superuser, testing=True)
        url = as_role(superuser, "limited")
        grant(superuser)
        async with an_oban(url) as oban, attach(oban) as engine, open_ledger(url) as ledger:
            node = Node(superuser, oban, engine)
            jobs = await collectors(node, 4)
            load = Load(ledger, [job.id for job in jobs], timeout=0.5)
            async with load.running(4):
                await eventually(load.has_sent(50))
                with contextlib.ExitStack() as taken:
                    # What is left, and then what the library had, of whom all connections are ended.
                    own = "usename = 'limited' AND application_name <> 'others'"
                    ended = 0
                    while ended == 0 or connections_of_library(superuser, own) > 0:
                        take_all(taken, url)
                        ended += terminate(superuser, own)
                        take_all(taken, url)
                    unknown = len(load.unknown)
                    with pytest.raises(DeliveryUnknown) as told:
                        await ledger.signal(jobs[0], "x", channel="other", timeout=0.5)
                    assert "TooManyConnectionsError" in str(told.value.__cause__)
                    with pytest.raises(StoreUnavailableError, match="TooManyConnectionsError"):
                        await ledger.history(jobs[0])
                    await eventually(lambda: len(load.unknown) >= unknown + 8)
                await eventually(load.has_sent(50))
            figures = await load.figures(ledger, record_property, happened=ended)
            assert figures.unknown >= 8
            await have_consumed_all(node, jobs)
        async with open_ledger(superuser) as ledger:
            assert (await ledger.verify()).ok


def connections_of_library(url, condition):
    [[count]] = query(url, f"SELECT count(*) FROM pg_stat_activity WHERE {condition}")
    return count


def take_all(taken, url):
    """Connect until the server refuses."""
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            taken.enter_context(psycopg.connect(f"{url}&application_name=others"))


async def test_a_pool_of_one_is_enough(ledger_url, record_property):
    """Oban's own; with more jobs than that, live waits and acknowledgements all go through it."""
    async with (
        an_oban(ledger_url, {"default": 20}, pool_options={"max_size": 1}) as oban,
        attach(oban) as engine,
        open_ledger(ledger_url) as ledger,
    ):
        node = Node(ledger_url, oban, engine)
        await plays(node)
        jobs = await collectors(node, 10)
        load = Load(engine, [job.id for job in jobs], timeout=30)
        async with load.running(8):
            await eventually(load.has_sent(200))
        stats = oban._query._pool.get_stats()
        # So many had to wait for the one.
        happened = stats["requests_queued"] if stats["pool_size"] == 1 else 0
        await load.figures(ledger, record_property, happened=happened)
        await have_consumed_all(node, jobs)


@pytest.mark.parametrize("timeout", [0.5, 30])
async def test_d1_a_server_that_comes_back_read_only_is_waited_for(cluster, it, timeout, record_property):
    """As after a failover: what one is connected to answers, and writes nothing, until it is promoted."""
    jobs = await collectors(it)
    name = name_of(it.url)
    async with open_ledger(it.url) as ledger:
        load = Load(ledger, [job.id for job in jobs], timeout=timeout)
        async with load.running(8):
            await eventually(load.has_sent(100))
            query(it.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            await asyncio.to_thread(cluster.stop, "immediate")
            await asyncio.to_thread(cluster.start)
            sent = len(load.acknowledged)
            # Reading goes on.
            assert (await ledger.verify()).ok
            if timeout < 1:
                await eventually(lambda: len(load.unknown) >= 8)
            assert len(load.acknowledged) == sent
            with pytest.raises(errors.ReadOnlySqlTransaction):
                query(it.url, "DELETE FROM oban_jobs WHERE false")
            query(f"{it.url}&options=-cdefault_transaction_read_only%3Doff", f"ALTER DATABASE {name} RESET ALL")
            terminate(it.url)
            await eventually(load.has_sent(100))
        await load.figures(ledger, record_property, happened=1)
    await have_consumed_all(it, jobs)


@contextlib.contextmanager
def small_disk(folder):
    owner = folder.parent.stat()
    folder.mkdir()
    require_program("mount", "mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        os.chown(folder, owner.st_uid, owner.st_gid)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
async def test_d1_a_full_disk_is_told_and_loses_nothing(cluster, record_property):
    """The tables lie on a small disk of their own, which something else fills."""
    with small_disk(Path(cluster.folder) / "small") as disk:
        query(cluster.url(), f"CREATE TABLESPACE small LOCATION '{disk}'")
        query(cluster.url(), "CREATE DATABASE on_small TABLESPACE small")
        url = cluster.url("on_small")
        try:
            await install(url, testing=True)
            async with an_oban(url) as oban, attach(oban) as engine, open_ledger(url) as ledger:
                node = Node(url, oban, engine)
                jobs = await collectors(node, 4)
                load = Load(ledger, [job.id for job in jobs], timeout=0.5)
                filler = disk / "filler"
                async with load.running(4):
                    await eventually(load.has_sent(50))
                    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                        while file.write(bytes(4096)):
                            pass
                    await eventually(lambda: len(load.unknown) >= 4)
                    with pytest.raises(DeliveryUnknown) as unknown:
                        await ledger.signal(jobs[0], {"large": os.urandom(100_000)}, channel="other", timeout=3)
                    assert "DiskFullError" in str(unknown.value.__cause__)
                    filler.unlink()
                    await eventually(load.has_sent(50))
                await load.figures(ledger, record_property, happened=1)
                await have_consumed_all(node, jobs)
                assert (await ledger.verify()).ok
        finally:
            cluster.drop_database("on_small")
            query(cluster.url(), "DROP TABLESPACE small")
