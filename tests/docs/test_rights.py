"""The rights that the reference lists are those that an application needs, and no fewer."""

import psycopg
import pytest
from oban import Oban, worker
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach, await_signal, migrate, open_ledger
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


async def test_an_application_with_the_rights_that_the_page_lists_can_do_everything(connection, oban_url):
    assert len(GRANTS) == 4
    connection.execute(";".join(GRANTS))
    connection.execute(AUDITOR)
    url = as_role(oban_url, "application")
    async with AsyncConnectionPool(url, open=False) as pool, attach(Oban(pool=pool, queues={"default": 10})) as engine:
        [asleep, live, cancelled] = await engine.enqueue_many(Asking.new({"window": window}) for window in (0, 60, 60))

        async def has_status(job, status):
            return (await engine.ledger.state(job)).status == status

        await eventually(lambda: has_status(asleep, "snoozed"))
        await eventually(lambda: has_status(live, "live"))
        await eventually(lambda: has_status(cancelled, "live"))
        await engine.signal(asleep, "yes")
        async with await psycopg.AsyncConnection.connect(url) as caller:
            await engine.signal(live, "yes", conn=caller)
        await engine.cancel_job(cancelled)
        for job in (asleep, live, cancelled):
            await eventually(lambda job=job: has_status(job, "closed"))
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
