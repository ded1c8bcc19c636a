"""The rights that the reference lists are those that an application needs, and no fewer."""

import psycopg
import pytest
from oban import Oban, worker
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach, await_signal, migrate, open_ledger, telemetry
from signal_ledger.telemetry.tracing import following_traces
from tests.docs.pages import ROOT, blocks
from tests.eventually import eventually

OF_OBAN = """
DROP ROLE IF EXISTS application, application_readonly;
CREATE ROLE application LOGIN;
CREATE ROLE application_readonly LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON oban_jobs, oban_leaders, oban_producers TO application;
"""

AUDITOR = """
GRANT USAGE ON SCHEMA signal_ledger TO application_readonly;
GRANT SELECT ON ALL TABLES IN SCHEMA signal_ledger TO application_readonly;
"""

GRANTS = [
    statement
    for block in blocks(ROOT / "docs" / "reference" / "postgres.md")
    if block.language == "{code-block} sql"
    for statement in block.text.split(";\n")
    if statement.startswith("GRANT")
]


@worker()
class Asking:
    async def process(self, job):
        await await_signal(wait_timeout=job.args["window"])


@pytest.fixture
async def connection(oban_url):
    await migrate(oban_url)
    with psycopg.connect(oban_url, autocommit=True) as connection:
        connection.execute(OF_OBAN)
        yield connection
        connection.execute("DROP OWNED BY application, application_readonly")
        connection.execute("DROP ROLE application, application_readonly")


def as_role(url, role):
    return url.replace("postgres@", f"{role}@")


async def has_status(engine, job, status):
    return (await engine.ledger.state(job)).status == status


async def test_an_application_with_the_rights_that_the_page_lists_can_do_everything(connection, oban_url):
    assert len(GRANTS) == 4
    connection.execute(";".join(GRANTS))
    connection.execute(AUDITOR)
    url = as_role(oban_url, "application")
    async with AsyncConnectionPool(url, open=False) as pool, attach(Oban(pool=pool, queues={"default": 10})) as engine:
        [asleep, live, cancelled] = await engine.enqueue_many(Asking.new({"window": window}) for window in (0, 60, 60))

        await eventually(lambda: has_status(engine, asleep, "snoozed"))
        await eventually(lambda: has_status(engine, live, "live"))
        await eventually(lambda: has_status(engine, cancelled, "live"))
        await engine.signal(asleep, "yes")
        async with await psycopg.AsyncConnection.connect(url) as caller:
            await engine.signal(live, "yes", conn=caller)
        await engine.cancel_job(cancelled)
        for job in (asleep, live, cancelled):
            await eventually(lambda job=job: has_status(engine, job, "closed"))
        assert await engine.ledger.rebuild() == 3
    async with open_ledger(as_role(oban_url, "application_readonly"), read_only=True) as ledger:
        report = await ledger.verify()
        assert report.ok, str(report)
        assert [event.kind async for event in ledger.events(kinds=["closed"])] == ["closed"] * 3
        # Oban's table is none of an auditor's business; the history can be exported all the same.
        exported = await ledger.export(asleep)
        assert exported.job is None
        assert [event.kind for event in exported] == ["snoozed", "delivered", "consumed", "closed"]
        assert [step.event async for step in ledger.replay(asleep)] == list(exported)
    async with open_ledger(url, read_only=True) as ledger:
        assert (await ledger.export(asleep)).job.args == {"window": 0}


TRACES = ",\n    signal_ledger.traces"


@pytest.mark.parametrize("may_trace", [True, False])
async def test_a_role_without_rights_on_traces_works_as_ever_and_links_nothing(connection, oban_url, may_trace):
    grants = ";".join(GRANTS)
    assert TRACES in grants
    connection.execute(grants if may_trace else grants.replace(TRACES, ""))
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    url = as_role(oban_url, "application")
    links, upkeep = [], []
    async with AsyncConnectionPool(url, open=False) as pool, attach(Oban(pool=pool, queues={"default": 10})) as engine:
        jobs = await engine.enqueue_many(Asking.new({"window": 0}) for _ in range(4))
        for job in jobs:
            await eventually(lambda job=job: has_status(engine, job, "snoozed"))
        telemetry.attach("links", ["signal_ledger.consumed"], lambda _name, told: links.append(told["traceparent"]))
        try:
            with following_traces(lambda: traceparent):
                await engine.signal(jobs[0], "yes")
                await engine.signal(jobs[1:3], "yes")
                async with await psycopg.AsyncConnection.connect(url) as caller:
                    await engine.signal(jobs[3], "yes", conn=caller)
                for job in jobs:
                    await eventually(lambda job=job: has_status(engine, job, "closed"))
            upkeep.append(await engine._store.tick())
        finally:
            telemetry.detach("links")
    assert links == [traceparent if may_trace else None] * 4
    assert upkeep == [0]
    assert connection.execute("SELECT count(*) FROM signal_ledger.traces").fetchone() == (0,)


async def test_the_log_hears_of_a_role_that_has_no_rights_on_it(connection, oban_url):
    connection.execute("GRANT SELECT, UPDATE, DELETE ON oban_jobs TO application_readonly")
    async with AsyncConnectionPool(oban_url, open=False) as pool, attach(Oban(pool=pool)) as engine:
        jobs = await engine.enqueue_many(Asking.new({"window": 0}) for _ in range(3))
        for job in jobs:
            await engine.signal(job, "kept")
        cancelled, deleted, executing = (job.id for job in jobs)
        warnings = []
        with psycopg.connect(as_role(oban_url, "application_readonly"), autocommit=True) as other:
            other.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
            other.execute("UPDATE oban_jobs SET state = 'cancelled' WHERE id = %s", (cancelled,))
            other.execute("UPDATE oban_jobs SET state = 'available' WHERE id = %s", (cancelled,))
            other.execute("DELETE FROM oban_jobs WHERE id = %s", (deleted,))
            other.execute("UPDATE oban_jobs SET state = 'executing' WHERE id = %s", (executing,))
            other.execute("UPDATE oban_jobs SET cancelled_at = now() WHERE id = %s", (executing,))
        causes = [(await engine.ledger.history(job))[-1].cause for job in jobs]
        assert causes == ["cancelled", "deleted", None]
        assert connection.execute("SELECT job_id FROM signal_ledger.cancels").fetchall() == [(executing,)]
        assert (await engine.ledger.verify()).ok
    assert warnings == []


async def test_nobody_else_makes_triggers_that_speak_for_the_owner(connection, oban_url):
    connection.execute("GRANT USAGE ON SCHEMA signal_ledger TO application_readonly")
    with psycopg.connect(as_role(oban_url, "application_readonly"), autocommit=True) as other:
        other.execute("CREATE TEMPORARY TABLE mine (id bigint, state text)")
        for function in ("job_moved", "job_changes", "cancel_requested", "job_retried", "job_planned", "tell_ends"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=function):
                other.execute(
                    f"CREATE TRIGGER t AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION signal_ledger.{function}()"
                )
