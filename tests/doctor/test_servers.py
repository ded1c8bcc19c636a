"""The doctor on PostgreSQL servers: those that answer, those that do not, and what lies in between."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import tempfile
import time

import psycopg
import pytest
from oban import Oban
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach, migrate
from signal_ledger_adapters.doctor import Status, examine, postgres_server
from tests.doctor.conftest import another_cluster
from tests.doctor.looked import MACHINE, looked
from tests.eventually import eventually
from tests.postgres.catalogue import catalogue
from tests.postgres.conftest import install_oban
from tests.postgres.engine.conftest import an_oban, query
from tests.postgres.engine.test_pooler import _is_up, a_pooler
from tests.postgres.faults.server import connections, halted

SETTINGS = ["fsync", "full_page_writes", "synchronous_commit", "wal_level", "data_checksums"]
SERVER = ["connection", "version", "pooler", "standby", *SETTINGS, "clock"]
ALL = [
    *(*SERVER, "schema", "oban", "triggers", "indexes", "rights", "hints", "repairs", "outbox", "waits"),
    *("transactions", "engines", *MACHINE),
]
PASSWORD = "open-sesame"


@pytest.fixture(scope="module")
def durable():
    """A cluster as one for production is set up, with a password."""
    with another_cluster(tcp=True) as cluster:
        yield cluster


@pytest.fixture
def unattached():
    """An Oban registers itself when it is made."""
    from signal_ledger_adapters.oban_api import instances

    before = dict(instances)
    yield
    instances.clear()
    instances.update(before)


async def test_all_is_well_where_an_engine_runs(durable, unattached):
    url = durable.create_database("well")
    await install_oban(url)
    await migrate(url)
    async with AsyncConnectionPool(url, open=False) as pool, attach(Oban(pool=pool, queues={"mail": 1})):
        found = await looked(url)
    assert list(found) == ALL
    assert found.problems() == []
    assert {name for name, check in found.items() if check.status is Status.NOTE} <= {"data_checksums"}
    assert found["version"].found == f"PostgreSQL {durable.release}"
    assert found["pooler"].found == "the connection leads to the server itself"
    assert found["clock"].found.startswith("the server's clock is ")
    assert found["rights"].found == "the role 'postgres' may run jobs, signal and read"
    assert found["engines"].found.endswith("with mail")
    assert found["hints"].found.startswith("a hint arrives after ")
    assert found["hints"].found.endswith(" on public.oban_signal_ledger")


async def test_it_leaves_nothing_behind(fresh_url):
    await looked(fresh_url)
    before = catalogue(fresh_url)
    next_transaction = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    [[began]] = query(fresh_url, next_transaction)
    found = await looked(fresh_url)
    assert list(found) == ALL
    assert catalogue(fresh_url) == before
    # No transaction has written anything, not even one that was rolled back: to notify takes one each.
    assert query(fresh_url, next_transaction) == [(began + 2,)]
    await eventually(lambda: connections(fresh_url) == (0, 0))


async def test_a_server_that_is_not_there_is_found(tmp_path):
    for where in (f"/none?host={tmp_path}", "127.0.0.1:1/none", "nowhere.invalid/none"):
        found = await looked(f"postgresql://ada:{PASSWORD}@{where}")
        assert list(found) == ["connection", *MACHINE]
        assert found.problems() == ["connection"]
        assert "the database could not be reached" in found["connection"].found
        assert "whether the server runs there" in found["connection"].advice
        assert PASSWORD not in str(found)


async def test_a_wrong_password_is_found_and_not_shown(durable):
    url = durable.url()
    right = url.split(":")[2].partition("@")[0]
    found = await looked(url.replace(right, PASSWORD))
    assert list(found) == ["connection", *MACHINE]
    assert 'password authentication failed for user "postgres"' in found["connection"].found
    assert "check the user and the password" in found["connection"].advice
    assert PASSWORD not in str(found)
    assert right not in str(await looked(url))


async def test_a_database_that_is_not_there_is_found(cluster):
    found = await looked(cluster.url("none"))
    assert 'database "none" does not exist' in found["connection"].found
    assert found["connection"].advice == "check the name of the database in the URL, or create it"


async def test_a_server_that_has_no_connection_left_is_found(fresh_url):
    query(fresh_url, "DROP ROLE IF EXISTS narrow")
    query(fresh_url, "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1")
    found = await looked(fresh_url.replace("postgres@", "narrow@"))
    assert "too many connections" in found["connection"].found
    assert found["connection"].advice == "close connections that nobody needs, or raise max_connections"
    query(fresh_url, "DROP ROLE narrow")


async def test_a_halted_server_is_found_in_time(cluster, fresh_url):
    with halted(cluster):
        began = time.monotonic()
        found = await looked(fresh_url, timeout_s=0.5)
        assert time.monotonic() - began < 2
    assert list(found) == ["connection", *MACHINE]
    assert found["connection"].found == (
        "expected the database to answer, but no answer from the database within 0.5 s"
    )
    assert "whether the server stands still" in found["connection"].advice


@pytest.mark.parametrize("seen", ["connection", "standby", "schema", "rights", "transactions"])
async def test_a_server_that_is_halted_in_the_middle_is_found_in_time(cluster, fresh_url, seen):
    found = []
    async with contextlib.aclosing(examine(fresh_url, timeout_s=0.5)) as checks, contextlib.AsyncExitStack() as stack:
        async for check in checks:
            found.append(check)
            if check.name == seen:
                stack.enter_context(halted(cluster))
                began = time.monotonic()
        assert time.monotonic() - began < 4
    assert [check.name for check in found] == [*ALL[: ALL.index(seen) + 2], *MACHINE]
    assert found[-3].status is Status.FINDING
    assert found[-3].found.endswith("within 0.5 s; nothing else of the database was examined")


async def test_an_old_server_is_found(fresh_url, monkeypatch):
    monkeypatch.setattr(postgres_server, "OLDEST", 99)
    found = (await looked(fresh_url))["version"]
    assert (found.status, found.found[-22:]) == (Status.FINDING, ": expected 99 or newer")


async def test_a_pooler_of_transactions_must_be_told(fresh_url):
    for sessions in (1, 2, 3):
        with a_pooler(fresh_url, sessions=sessions) as url:
            await eventually(lambda url=url: _is_up(url))
            found = await looked(url)
            assert "pooler" in found.problems()
            assert "expected ?statement_cache_size=0 in the URL" in found["pooler"].found
            assert "kwargs={'prepare_threshold': None}" in found["pooler"].advice
            # All the rest can be looked at all the same.
            assert list(found) == ALL
            found = await looked(f"{url}&statement_cache_size=0")
            assert found["pooler"].status is Status.OK
            assert found["pooler"].found == (
                "there is a pooler of transactions in between, and the URL says so (statement_cache_size=0)"
            )
            assert found["hints"].status is Status.NOTE
            assert "everything works, up to a second later" in found["hints"].found


async def test_a_pooler_that_goes_around_is_told_apart(fresh_url):
    with a_pooler(fresh_url, "transaction\nserver_round_robin = 1", sessions=2) as url:
        await eventually(lambda: _is_up(url))
        # So that there are two sessions to go around.
        with psycopg.connect(url, prepare_threshold=None) as one, psycopg.connect(url, prepare_threshold=None) as other:
            one.execute("SELECT 1")
            other.execute("SELECT 1")
        assert "pooler" in (await looked(url)).problems()


async def test_nothing_is_left_in_a_poolers_sessions(fresh_url):
    with a_pooler(fresh_url, sessions=2) as url:
        await eventually(lambda: _is_up(url))
        await looked(url)
        for _ in range(6):
            with psycopg.connect(url, prepare_threshold=None) as connection:
                left = "SELECT count(*) FROM pg_listening_channels(), pg_prepared_statements"
                assert connection.execute(left).fetchone() == (0,)
                left = "SELECT name FROM pg_settings WHERE source = 'session' AND name <> 'client_encoding'"
                assert connection.execute(left).fetchall() == []


async def test_a_pooler_of_sessions_needs_nothing_and_passes_hints_on(fresh_url):
    with a_pooler(fresh_url, "session", sessions=5) as url:
        await eventually(lambda: _is_up(url))
        found = await looked(url)
        assert found["pooler"].found == "there is a pooler of sessions in between, which needs nothing"
        assert found["hints"].status is Status.OK


async def test_nothing_is_left_in_a_pool_of_sessions_that_cleans_up_nothing(fresh_url):
    with a_pooler(fresh_url, "session\nserver_reset_query =", sessions=2) as url:
        await eventually(lambda: _is_up(url))
        assert (await looked(url))["hints"].status is Status.OK
        with psycopg.connect(url) as one, psycopg.connect(url) as other:
            for connection in (one, other):
                assert connection.execute("SELECT * FROM pg_listening_channels()").fetchall() == []


async def test_a_pooler_of_statements_is_found(fresh_url):
    with a_pooler(fresh_url, "statement") as url:
        await eventually(lambda: _is_up(url))
        found = await looked(url)
        assert list(found) == ["connection", *MACHINE]
        assert "transaction blocks not allowed in statement pooling mode" in found["connection"].found
        assert found["connection"].advice.startswith("give the pooler pool_mode = session, or transaction")


async def test_a_url_that_tells_of_a_pooler_in_vain_is_noted(fresh_url):
    found = (await looked(f"{fresh_url}&statement_cache_size=0"))["pooler"]
    assert (found.status, "leads to the server itself" in found.found) == (Status.NOTE, True)


async def test_careless_settings_are_found():
    settings = {"synchronous_commit": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    with another_cluster(durable=False, settings=settings) as cluster:
        found = await looked(cluster.url())
        assert [name for name in found.problems() if name in SETTINGS] == ["fsync", "full_page_writes"]
        assert "fsync is off, expected on: a power cut loses what was acknowledged" in found["fsync"].found
        assert found["synchronous_commit"].status is Status.NOTE
        assert "committed with on all the same" in found["synchronous_commit"].found
        assert found["wal_level"].status is Status.NOTE
        has_checksums = query(cluster.url(), "SHOW data_checksums") == [("on",)]
        assert found["data_checksums"].status is (Status.OK if has_checksums else Status.NOTE)
        assert (cluster.version < 18) == (not has_checksums)


async def test_a_standby_is_found_and_can_be_looked_over():
    with another_cluster(durable=False) as cluster:
        url = cluster.create_database("followed")
        await install_oban(url)
        await migrate(url)
        cluster.stop("fast")
        (cluster._data / "standby.signal").touch()
        cluster.start()
        found = await looked(url)
        assert "standby" in found.problems()
        assert "it can be audited, and nothing can be signalled" in found["standby"].found
        assert [name for name in ALL if name not in found] == ["hints", "transactions"]
        assert found["schema"].status is Status.OK


SKEWED = """
import asyncio, sys
from signal_ledger_adapters.doctor import examine

async def main():
    async for check in examine(sys.argv[1]):
        if check.name == "clock":
            print(check.status, check.found, sep="|")

asyncio.run(main())
"""


@pytest.mark.parametrize(("offset", "told"), [("+2h", "2 h behind"), ("-90s", "1.5 min ahead of")])
def test_clocks_that_are_apart_are_found(fresh_url, faketime, offset, told):
    command = ["faketime", "-f", offset, sys.executable, "-c", SKEWED, fresh_url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, found = done.stdout.strip().split("|")
    assert status == "finding"
    assert found.startswith(f"expected both clocks to agree, but the server's is {told} this machine's (± ")


async def test_a_slow_way_is_no_difference_of_clocks(fresh_url, monkeypatch):
    """The server's answer may be from any moment of the round trip."""
    monkeypatch.setattr(postgres_server, "APART_S", 0.001)
    async with between(fresh_url, delay_s=0.02) as url:
        found = await looked(url)
    assert found["clock"].status is Status.OK


async def test_notifications_that_get_lost_are_found(fresh_url):
    async with between(fresh_url, drops=b"A") as url:
        found = await looked(url, timeout_s=1)
    assert "hints" in found.problems()
    assert "and public.oban_signal_ledger none did: everything works, up to a second later" in found["hints"].found


async def test_the_hints_of_the_ledger_are_tested_where_they_are_sent(fresh_url):
    """The function that sends them is broken here, and the server is not."""
    query(
        fresh_url,
        "CREATE OR REPLACE FUNCTION signal_ledger.notify(channel text, message json) RETURNS void LANGUAGE sql AS ''",
    )
    found = await looked(fresh_url, timeout_s=1)
    assert "hints" in found.problems()
    assert "but on public.oban_signal_ledger none did" in found["hints"].found


async def test_listeners_are_not_disturbed(ledger_url, caplog):
    caplog.set_level(logging.DEBUG)
    heard = []
    async with an_oban(ledger_url) as oban, attach(oban):
        await oban._notifier.listen("signal_ledger", lambda channel, payload: heard.append(payload), wait=True)
        assert (await looked(ledger_url))["hints"].status is Status.OK
        await eventually(lambda: [payload for payload in heard if len(payload.get("test", "")) == 32])
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert oban._notifier._loop_task.done() is False


async def test_a_prefix_that_is_too_long_for_a_channel_has_no_hints_to_test(database):
    prefix = "jobs" * 12
    await install_oban(database, prefix)
    await migrate(database, oban_prefix=prefix)
    found = await looked(database)
    assert found["hints"].status is Status.NOTE
    assert "63 bytes" in found["hints"].found


@contextlib.asynccontextmanager
async def between(url, *, drops=b"", delay_s=0.0):
    """The same database through a proxy that drops messages of the server by their type, or is slow."""
    parts = conninfo_to_dict(url)
    name = f".s.PGSQL.{parts['port']}"
    tasks, writers = set(), []

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        server_reader, server_writer = await asyncio.open_unix_connection(f"{parts['host']}/{name}")
        writers.extend((writer, server_writer))

        async def up():
            while data := await reader.read(1 << 16):
                await asyncio.sleep(delay_s)
                server_writer.write(data)

        async def down():
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await server_reader.readexactly(5)
                    body = await server_reader.readexactly(int.from_bytes(head[1:]) - 4)
                    if head[0] not in drops:
                        writer.write(head + body)

        ways = [asyncio.create_task(up()), asyncio.create_task(down())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, server_writer):
            each.transport.abort()
        await asyncio.gather(*ways, return_exceptions=True)

    with tempfile.TemporaryDirectory(prefix="between-") as folder:
        server = await asyncio.start_unix_server(serve, f"{folder}/{name}")
        try:
            yield url.replace(parts["host"].replace("/", "%2F"), folder).replace(parts["host"], folder)
        finally:
            server.close()
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*tasks)
