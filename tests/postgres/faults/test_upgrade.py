"""Upgrades while the system runs: it goes on under a migration, and old processes leave to new ones what is theirs."""

import asyncio
import contextlib
import json
import pickle
from collections import Counter

import psycopg
import pytest

from signal_ledger import SchemaError, attach, migrate, open_ledger
from signal_ledger.upcast import NewerEventError
from signal_ledger_adapters.postgres.schema import migrations
from tests.eventually import eventually
from tests.fault_figures import Figures
from tests.postgres.engine.conftest import Node, an_oban, query
from tests.postgres.engine.workers import APPROVED, SEEN, Approval, Quick
from tests.postgres.faults.load import Load
from tests.postgres.faults.next_release import NextRelease, a_process
from tests.postgres.faults.server import crash, started_at
from tests.postgres.faults.workers import collectors, have_consumed_all

NEWEST = migrations()[-1].version

OTHER_RELEASE = "UPDATE signal_ledger.settings SET functions = 'of another release'"


async def test_migrations_in_mid_load_disturb_nobody(it, record_property):
    """Each puts the functions in place anew; three at a time, and then again."""
    jobs = await collectors(it)
    migrated = 0
    async with open_ledger(it.url) as ledger:
        load = Load(it.engine, [job.id for job in jobs], timeout=30)
        async with load.running(8):
            for _ in range(3):
                [[before]] = query(it.url, "SELECT max(xmin::text::bigint) FROM pg_proc")
                query(it.url, OTHER_RELEASE)
                assert await asyncio.gather(*[migrate(it.url, testing=True) for _ in range(3)]) == [NEWEST] * 3
                [[after]] = query(it.url, "SELECT max(xmin::text::bigint) FROM pg_proc")
                migrated += after != before
                await eventually(load.has_sent(50))
        figures = await load.figures(ledger, record_property, happened=migrated)
    assert migrated == 3
    assert figures.unknown == 0
    await have_consumed_all(it, jobs)


async def test_a_migration_that_must_wait_lets_others_write(it, record_property):
    """Somebody has written to Oban's table, and takes his time: jobs run all the while."""
    query(it.url, OTHER_RELEASE)
    with psycopg.connect(it.url) as slow:
        slow.execute("INSERT INTO oban_jobs (worker, state) VALUES ('w', 'suspended')")
        migrating = asyncio.create_task(migrate(it.url, testing=True))
        worst_s = 0.0
        for _ in range(10):
            began = asyncio.get_running_loop().time()
            job = await Quick.enqueue()
            await it.until(job, "completed")
            worst_s = max(worst_s, asyncio.get_running_loop().time() - began)
            await asyncio.sleep(0.3)  # else all of them run while it gives way
        assert not migrating.done()
        slow.commit()
    assert await migrating == NEWEST
    record_property("worst_s", worst_s)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            query(it.url, OTHER_RELEASE)
            # Whom it waits for needs the event loop, too.
            async with await psycopg.AsyncConnection.connect(it.url) as slow:
                await slow.execute("LOCK TABLE oban_jobs")
                await migrate(it.url, testing=True)
    await migrate(it.url, testing=True)


async def test_migrations_keep_to_no_limit_of_the_role(ledger_url):
    [[name]] = query(ledger_url, "SELECT current_database()")
    query(ledger_url, f"ALTER DATABASE {name} SET statement_timeout = '30ms'")
    query(ledger_url, f"ALTER DATABASE {name} SET lock_timeout = '1ms'")
    query(ledger_url, OTHER_RELEASE)
    with psycopg.connect(ledger_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('signal_ledger.migrate'))")
        migrating = asyncio.create_task(migrate(ledger_url, testing=True))
        done, _ = await asyncio.wait([migrating], timeout=0.5)
        assert not done
    assert await migrating == NEWEST


async def test_l8_what_a_newer_library_has_written_is_left_to_it(it):
    """As long as only old workers run; when they meet what they know again, as new ones would, they go on."""
    jobs = await it.engine.enqueue_many(Approval.new({"window": window}) for window in (0, 0, 60, 60))
    for job, status in zip(jobs, ("snoozed", "snoozed", "live", "live"), strict=True):
        await it.until_status(job, status)
    newer, known = jobs[::2], jobs[1::2]
    await it.change(
        "UPDATE signal_ledger.waits SET schema_version = 3 WHERE job_id = ANY (%s)", [job.id for job in newer]
    )
    for job in newer:
        with pytest.raises(NewerEventError):
            await it.engine.signal(job, APPROVED)
    with pytest.raises(NewerEventError):
        await it.engine.signal(jobs, APPROVED)
    async with await psycopg.AsyncConnection.connect(it.url, autocommit=True) as connection:
        for job in newer:
            await it.engine.signal(job, APPROVED, conn=connection)
    # A look, a rescue, a retry: whatever wakes them, they are put off.
    await it.change("UPDATE oban_jobs SET state = 'available' WHERE id = %s", newer[0].id)
    for job in known:
        await it.engine.signal(job, APPROVED)
        await it.until(job, "completed")
    await it.until(newer[0], "scheduled")
    assert await it.ledger.outbox() != []
    assert SEEN == [APPROVED] * 2
    for job in newer:
        found = await it.oban.get_job(job.id)
        assert (found.errors, found.state in ("scheduled", "executing", "available")) == ([], True)
        assert (await it.kinds(job))[-1] in ("snoozed", "awaited")
    await it.change("UPDATE signal_ledger.waits SET schema_version = 1")
    # It was put off for a minute, which is over now.
    await it.change("UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) WHERE id = %s", newer[0].id)
    for job in newer:
        ended = await it.until(job, "completed")
        assert ended.errors == []
    assert SEEN == [APPROVED] * 4


async def test_old_processes_that_run_go_on_under_a_newer_schema_and_none_is_started(it):
    job = await it.engine.enqueue(Approval.new({"window": 0}))
    await it.until_status(job, "snoozed")
    [[version]] = query(it.url, "SELECT version FROM signal_ledger.settings")
    await it.change("UPDATE signal_ledger.settings SET version = 99")
    try:
        with pytest.raises(SchemaError, match="has version 99, this library knows 4; upgrade the library"):
            async with open_ledger(it.url):
                pass
        with pytest.raises(SchemaError, match="upgrade the library"):
            await migrate(it.url, testing=True)
        await it.engine.signal(job, APPROVED)
        await it.until(job, "completed")
    finally:
        await it.change("UPDATE signal_ledger.settings SET version = %s", version)


def note_executions(url):
    """Have the database note each execution, and the node that it is on."""
    query(url, "CREATE TABLE executions (node text)")
    query(
        url,
        "CREATE FUNCTION note_execution() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.executions VALUES (NEW.attempted_by[1]); RETURN NULL; END $$",
    )
    query(
        url,
        "CREATE TRIGGER note_execution AFTER UPDATE OF state ON oban_jobs FOR EACH ROW "
        "WHEN (NEW.state = 'executing') EXECUTE FUNCTION note_execution()",
    )


async def plays(node):
    """Some jobs fall asleep on some node, are signalled, and end on some other."""
    jobs = await node.engine.enqueue_many(Approval.new({"window": 0}) for _ in range(6))
    job_ids = [job.id for job in jobs]

    def are(condition):
        [[count]] = node.sql(f"SELECT count(*) FROM oban_jobs WHERE id = ANY (%s) AND {condition}", job_ids)
        return count == len(jobs)

    # Not by their histories: those are for the next release to read.
    await eventually(lambda: are("state = 'scheduled' AND meta ? 'wait_until'"))
    await node.engine.signal(jobs, APPROVED)
    await eventually(lambda: are("state = 'completed'"))


def ran_on(url):
    """How many executions there were on each node."""
    return Counter(dict(query(url, "SELECT node, count(*) FROM executions GROUP BY node")))


VERSION = "SELECT version FROM signal_ledger.settings"


async def crashes_once(cluster, url):
    """Let the server crash; return whether it has started anew."""
    before = started_at(url)
    await asyncio.to_thread(crash, cluster)
    return started_at(url) != before


@pytest.mark.timeout(300)
@pytest.mark.parametrize("crashes", ["before the migration", "before and after it"])
async def test_l8_d1_a_server_restarts_under_the_next_release_while_old_workers_run_and_nothing_is_lost(
    cluster, ledger_url, tmp_path, crashes, record_property
):
    """Old processes stay: they signal and work as before, and no job of theirs fails; new ones work beside them."""
    release = NextRelease(tmp_path / "next")
    note_executions(ledger_url)
    async with contextlib.AsyncExitStack() as stack:
        oban = await stack.enter_async_context(an_oban(ledger_url, {}))
        node = Node(ledger_url, oban, await stack.enter_async_context(attach(oban)))
        ledger = await stack.enter_async_context(open_ledger(ledger_url))
        old = await stack.enter_async_context(a_process("working", ledger_url, "old"))
        assert old.said == "schema version 2"
        jobs = await collectors(node)
        load = Load(ledger, [job.id for job in jobs], timeout=30)
        async with load.running(2):
            await eventually(load.has_sent(100))
            crashed = await crashes_once(cluster, ledger_url)
            [[old_version]] = query(ledger_url, VERSION)
            async with release.running("migrating", ledger_url) as migrating:
                assert migrating.said == "5"
            migrated = query(ledger_url, VERSION) != [(old_version,)]
            if crashes != "before the migration":
                await eventually(load.has_sent(50))
                crashed += await crashes_once(cluster, ledger_url)
            new = await stack.enter_async_context(release.running("working", ledger_url, "new"))
            assert new.said == "schema version 3"
            with pytest.raises(SchemaError, match="has version 5, this library knows 4; upgrade the library"):
                async with open_ledger(ledger_url):
                    pass
            before = ran_on(ledger_url)
            while not {"old", "new"} <= (ran_on(ledger_url) - before).keys():
                await plays(node)
            await eventually(load.has_sent(200))
        told = tmp_path / "told"
        told.write_bytes(
            pickle.dumps(
                {
                    "job_ids": [job.id for job in jobs],
                    "acknowledged": load.acknowledged,
                    "unknown": load.unknown,
                    "worst_s": load.worst_s,
                }
            )
        )
        async with release.running("accounting", ledger_url, told) as accounting:
            figures = json.loads(accounting.said)
        versions = query(ledger_url, "SELECT schema_version, count(*) FROM signal_ledger.events GROUP BY 1 ORDER BY 1")
        ran = ran_on(ledger_url) - before
    assert [version for version, _ in versions] == [1, 3]
    assert query(ledger_url, "SELECT DISTINCT state::text, errors FROM oban_jobs") == [("completed", [])]
    assert (figures["lost"], figures["doubled"], figures["unknown"]) == (0, 0, 0)
    assert figures["acknowledged"] == len(load.acknowledged)
    assert (crashed, migrated) == (crashes.count("before") + crashes.count("after"), True)
    Figures(**figures).record(record_property, happened=crashed + migrated)
    record_property("events of version 1, 3", [count for _, count in versions])
    record_property("executions after it on old, new", [ran["old"], ran["new"]])
