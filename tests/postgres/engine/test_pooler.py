"""Behind PgBouncer, which gives each transaction another session: everything works within the polling second."""

import asyncio
import contextlib
import logging
import os
import pwd
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from sqlalchemy.engine import make_url

from signal_ledger import SchemaError, attach, migrate, open_ledger
from signal_ledger_adapters.oban import watch
from signal_ledger_adapters.postgres.connection import create_engine, driver_of, to_url
from signal_ledger_adapters.postgres.schema import Names, migrations
from tests.eventually import eventually
from tests.postgres.conftest import install_oban
from tests.postgres.engine.conftest import Node, an_oban, query
from tests.postgres.engine.workers import APPROVED, Approval
from tests.postgres.faults.load import Load
from tests.postgres.faults.workers import collectors, have_consumed_all
from tests.requirements import require_program

CONFIGURATION = """
[databases]
* = host={host} port={port} user=postgres

[pgbouncer]
pool_mode = {mode}
default_pool_size = {sessions}
listen_port = 6432
unix_socket_dir = {folder}
logfile = {folder}/log
auth_type = any
"""


LIMITS = "SELECT name FROM pg_settings WHERE source = 'session' AND name LIKE '%timeout'"


@pytest.fixture
def pooled_url(ledger_url):
    """The same database through a pooler with a few sessions."""
    with a_pooler(ledger_url) as url:
        yield url


class Pooler:
    """A pooler that can be killed, and started again in the same place."""

    def __init__(self, command, url):
        self.url = url
        self._command = command
        self.start()

    def start(self):
        self._process = subprocess.Popen(self._command)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def stop(self):
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def a_pooler(ledger_url, mode="transaction", sessions=3):
    with poolers(ledger_url, mode, sessions) as pooler:
        yield pooler.url


@contextlib.contextmanager
def poolers(ledger_url, mode="transaction", sessions=3):
    program = require_program("pgbouncer", "pgbouncer")
    direct = make_url(ledger_url)
    with tempfile.TemporaryDirectory(prefix="tmp-") as name:
        folder = Path(name)
        (folder / "ini").write_text(
            CONFIGURATION.format(
                host=direct.query["host"],
                port=direct.query.get("port", direct.port),
                folder=folder,
                sessions=sessions,
                mode=mode,
            )
        )
        as_whom = []
        if os.geteuid() == 0:
            owner = pwd.getpwuid(Path(direct.query["host"]).stat().st_uid)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            as_whom = ["-u", owner.pw_name]
        url = f"postgresql://postgres@/{direct.database}?host={folder}&port=6432"
        pooler = Pooler([program, "-q", *as_whom, folder / "ini"], url)
        try:
            yield pooler
        finally:
            pooler.stop()


@pytest.fixture
async def behind(pooled_url, ledger_url, monkeypatch):
    """An engine all of whose connections go through the pooler, while others use its sessions, too."""
    monkeypatch.setattr(watch, "_TEST_S", 0.5)
    await eventually(lambda: _is_up(pooled_url))
    options = {"pool_options": {"kwargs": {"prepare_threshold": None}}, "stager": {"interval": 1.0}}
    async with an_oban(pooled_url, **options) as oban, attach(oban) as engine:
        yield Node(ledger_url, oban, engine)


def _is_up(url):
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("window", [0, 60])
async def test_waits_and_signals_work(behind, pooled_url, window):
    jobs = await behind.engine.enqueue_many(Approval.new({"window": window}) for _ in range(2))
    for job in jobs:
        await behind.until_status(job, "live" if window else "snoozed")
    async with open_ledger(f"{pooled_url}&statement_cache_size=0") as elsewhere:
        receipts = await asyncio.gather(*[elsewhere.signal(job, APPROVED) for job in jobs])
        assert {str(receipt.outcome) for receipt in receipts} == {"live" if window else "woken"}
        for job in jobs:
            await behind.until(job, "completed")
        assert (await elsewhere.verify()).ok
        assert len([event async for event in elsewhere.events()]) == 8


async def test_many_at_once_share_the_few_sessions(behind):
    jobs = await behind.engine.enqueue_many(Approval.new() for _ in range(40))
    await asyncio.gather(*[behind.engine.signal(job, APPROVED) for job in jobs for _ in range(3)])
    await asyncio.gather(*[behind.ledger.history(job) for job in jobs])
    for job in jobs:
        await behind.until(job, "completed")
    assert (await behind.ledger.verify()).ok


async def test_what_the_ledger_needs_of_a_session_stays_in_its_transactions(behind, pooled_url):
    job = await behind.engine.enqueue(Approval.new())
    await behind.engine.signal(job, APPROVED)
    await behind.until(job, "completed")
    for _ in range(10):
        with psycopg.connect(pooled_url, prepare_threshold=None) as connection:
            assert connection.execute("SELECT name FROM pg_prepared_statements WHERE name <> ''").fetchall() == []
            changed = connection.execute(
                "SELECT name FROM pg_settings WHERE source = 'session' AND name LIKE %s", ("%commit%",)
            )
            assert changed.fetchall() == []


async def test_it_is_said_that_hints_do_not_arrive(behind, caplog):
    with caplog.at_level(logging.WARNING):
        await eventually(lambda: "hints do not arrive" in caplog.text)


async def test_each_statement_has_a_transaction_of_its_own_with_what_the_ledger_needs(ledger_url):
    """Whatever the database's defaults are; and preparing and running it are not torn apart."""
    name = make_url(ledger_url).database
    query(ledger_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    query(ledger_url, f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    engine = create_engine(to_url(f"{ledger_url}&statement_cache_size=0"), Names())
    async with engine.connect() as connection:
        driver = await driver_of(connection)
        settings = "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
        assert tuple(await driver.fetchrow(settings)) == ("off", "read committed")
        assert [tuple(row) for row in await driver.fetch(settings)] == [("off", "read committed")]
        assert await driver.fetchval("SELECT current_setting('transaction_isolation')") == "read committed"
        assert not driver.is_in_transaction()
        # What must survive a power cut sees to that itself.
        durability = "SELECT current_setting('synchronous_commit') FROM signal_ledger.begin_writing()"
        assert await driver.fetchval(durability) == "on"
        async with driver.transaction():
            assert await driver.fetchval("SELECT current_setting('transaction_isolation')") == "repeatable read"
    await engine.dispose()


def test_another_size_of_the_statement_cache_is_refused():
    with pytest.raises(ValueError, match="url: expected statement_cache_size=0 or nothing, got '7'"):
        create_engine(to_url("postgresql://localhost/app?statement_cache_size=7"), Names())


async def test_a_setting_that_is_missing_is_named(pooled_url):
    await eventually(lambda: _is_up(pooled_url))
    refused = pytest.raises(
        SchemaError, match=r"pooler of transactions: expected \?statement_cache_size=0 .*prepare_thr"
    )
    async with an_oban(pooled_url) as oban:
        with refused:
            await attach(oban).start()
    with refused:
        await migrate(pooled_url, testing=True)
    with refused:
        async with open_ledger(pooled_url):
            pass


@pytest.mark.parametrize("timeout", [0.5, 30])
async def test_d1_a_pooler_that_is_killed_and_started_again_in_mid_load_loses_and_doubles_nothing(
    ledger_url, timeout, record_property
):
    """Three times, and once it stays away for so long that callers with little patience are told."""
    with poolers(ledger_url) as pooler:
        await eventually(lambda: _is_up(pooler.url))
        # Oban's pool would give out connections that have ended with the pooler.
        options = {"kwargs": {"prepare_threshold": None}, "check": AsyncConnectionPool.check_connection}
        async with (
            an_oban(pooler.url, pool_options=options) as oban,
            attach(oban) as engine,
            open_ledger(f"{pooler.url}&statement_cache_size=0") as ledger,
        ):
            node = Node(ledger_url, oban, engine)
            jobs = await collectors(node)
            load = Load(ledger, [job.id for job in jobs], timeout=timeout)
            async with load.running(16):
                for kills in range(1, 4):
                    await eventually(load.has_sent(100))
                    pooler.kill()
                    if timeout < 1 and kills == 3:
                        await eventually(lambda: len(load.unknown) >= 16)
                    pooler.start()
                    await eventually(lambda: _is_up(pooler.url))
                await eventually(load.has_sent(100))
            figures = await load.figures(ledger, record_property, happened=kills)
            assert (figures.unknown > 0) == (timeout < 1)
            assert (await ledger.verify()).ok
            await have_consumed_all(node, jobs)


async def test_an_upgrade_through_it_leaves_neither_lock_nor_limit_in_its_sessions(database, caplog):
    """Indexes are made outside of a transaction; its sessions are given to others in between."""
    await install_oban(database)
    caplog.set_level(logging.INFO, logger="signal_ledger_adapters.postgres.new_indexes")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((Path(__file__).parents[1] / "released" / "2.sql").read_text(encoding="utf-8"))
    with a_pooler(database, sessions=4) as url, psycopg.connect(database) as writing:
        await eventually(lambda: _is_up(url))
        [[job_id]] = query(database, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
        # The first index waits for it.
        writing.execute("SELECT signal_ledger.signal(%s, '\\x836a')", [job_id])
        upgrades = [asyncio.create_task(migrate(f"{url}&statement_cache_size=0")) for _ in range(2)]
        await eventually(lambda: "another migration makes the indexes" in caplog.text)
        writing.commit()
        assert set(await asyncio.gather(*upgrades)) == {migrations()[-1].version}
        assert query(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
        for _ in range(8):
            with psycopg.connect(url, prepare_threshold=None) as other:
                assert other.execute(LIMITS).fetchall() == []


async def test_a_pooler_of_sessions_needs_nothing(ledger_url):
    with a_pooler(ledger_url, "session", sessions=20) as url:
        await eventually(lambda: _is_up(url))
        assert await migrate(url, testing=True) == migrations()[-1].version
        async with an_oban(url) as oban, attach(oban) as engine:
            node = Node(ledger_url, oban, engine)
            job = await engine.enqueue(Approval.new())
            await node.until_status(job, "snoozed")
            await engine.signal(job, APPROVED)
            await node.until(job, "completed")
