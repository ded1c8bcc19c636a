"""The doctor on work that is stuck, on PostgreSQL."""

import psycopg
import pytest
from oban import Job

from signal_ledger import attach, open_ledger
from signal_ledger_adapters.doctor import Status, postgres_work
from tests.doctor.conftest import another_cluster
from tests.doctor.looked import looked
from tests.eventually import eventually
from tests.postgres.engine.conftest import an_oban, query
from tests.postgres.engine.workers import Approval

SECRET = "open-sesame"


@pytest.mark.parametrize(
    ("noted", "status"),
    [
        ("clock_timestamp()", Status.NOTE),
        ("clock_timestamp() - interval '1 hour'", Status.FINDING),
        # It could not be made up for, and is tried again in a minute.
        ("clock_timestamp() + interval '1 minute'", Status.FINDING),
    ],
)
async def test_an_end_that_is_missing_is_told(fresh_url, noted, status):
    assert (await looked(fresh_url))["repairs"].status is Status.OK
    query(fresh_url, f"INSERT INTO signal_ledger.repairs (job_id, cause, noted_at) VALUES (7, 'cancelled', {noted})")
    found = (await looked(fresh_url))["repairs"]
    assert found.status is status
    assert "1 is missing, job 7's among them" in found.found


async def test_signals_that_nobody_relays_are_found(fresh_url):
    [[job_id]] = query(fresh_url, "INSERT INTO oban_jobs (worker, state) VALUES ('w', 'completed') RETURNING id")
    async with open_ledger(fresh_url) as ledger, await psycopg.AsyncConnection.connect(fresh_url) as connection:
        await ledger.signal(job_id, SECRET, conn=connection)
    found = await looked(fresh_url)
    assert found["outbox"].status is Status.OK
    query(fresh_url, "UPDATE signal_ledger.outbox SET stored_at = stored_at - interval '3 hours'")
    found = await looked(fresh_url)
    assert {"outbox", "engines"} <= set(found.problems())
    assert "1 waits for longer than 1 min, the oldest for 3 h" in found["outbox"].found
    assert SECRET not in str(found)
    query(fresh_url, "UPDATE signal_ledger.outbox SET refusal = 'completed'")
    found = (await looked(fresh_url))["outbox"]
    assert (found.status, found.found) == (Status.NOTE, "of the stored signals 1 was refused at relay")


async def test_waits_that_are_overdue_are_found(ledger_url):
    async with an_oban(ledger_url) as oban, attach(oban) as engine:
        for hours in (1, 50):
            await engine.enqueue(Approval.new({"window": 0, "wait_for": hours * 3600}))

        async def both_wait():
            return len(await engine.ledger.waiting()) == 2

        await eventually(both_wait)
        assert (await looked(ledger_url))["waits"].status is Status.OK
    # Nobody looks after them while a day passes.
    query(ledger_url, "UPDATE signal_ledger.waits SET deadline_at = deadline_at - interval '1 day'")
    found = await looked(ledger_url)
    assert "waits" in found.problems()
    assert "1 is overdue by more than 1 min, the first by 23 h" in found["waits"].found


async def test_transactions_that_hold_back_readers_are_found(fresh_url, monkeypatch):
    assert (await looked(fresh_url))["transactions"].status is Status.OK
    monkeypatch.setattr(postgres_work, "LATE_S", 0.0)
    with psycopg.connect(fresh_url, application_name="importer") as one, psycopg.connect(fresh_url) as other:
        other.execute("SELECT 1")
        assert (await looked(fresh_url))["transactions"].status is Status.OK
        one.execute("INSERT INTO oban_jobs (worker) VALUES (%s)", [SECRET])
        found = await looked(fresh_url)
        assert "transactions" in found.problems()
        assert f"the session {one.info.backend_pid} of postgres (importer) in database {one.info.dbname}" in (
            found["transactions"].found
        )
        assert "events() and follow() do not go past it" in found["transactions"].found
        assert SECRET not in str(found)
    assert (await looked(fresh_url))["transactions"].status is Status.OK


async def test_transactions_that_were_prepared_and_forgotten_are_found(monkeypatch):
    monkeypatch.setattr(postgres_work, "LATE_S", 0.0)
    with another_cluster(durable=False, settings={"max_prepared_transactions": "2"}) as cluster:
        url = cluster.create_database("prepared")
        for number in (1, 2):
            query(url, f"BEGIN; CREATE TABLE orders_{number} (); PREPARE TRANSACTION 'order {number}'")
        found = await looked(cluster.url())
        assert "transactions" in found.problems()
        assert "the prepared transaction 'order 1' of postgres" in found["transactions"].found
        assert "in database prepared has written for" in found["transactions"].found
        assert ", and 1 more:" in found["transactions"].found


async def test_that_no_oban_runs_matters_where_there_is_something_to_do(fresh_url):
    found = (await looked(fresh_url))["engines"]
    assert (found.status, found.found) == (Status.NOTE, "no engine runs, and there is nothing to do for one")
    async with an_oban(fresh_url, {"mail": 1}) as oban, attach(oban) as engine:
        await engine.enqueue(Job("shop.Nobody", queue="other"))
        found = (await looked(fresh_url))["engines"]
        assert found.status is Status.OK
        assert found.found.startswith("Oban runs on ")
        assert found.found.endswith(", with mail")
    found = await looked(fresh_url)
    assert "engines" in found.problems()


async def test_producers_that_died_a_while_ago_do_not_count(fresh_url):
    query(fresh_url, "INSERT INTO oban_jobs (worker) VALUES ('w')")
    query(
        fresh_url,
        "INSERT INTO oban_producers (uuid, node, queue, updated_at) "
        "VALUES (gen_random_uuid(), 'n', 'q', timezone('UTC', now()) - interval '2 minutes')",
    )
    query(
        fresh_url,
        "INSERT INTO oban_leaders (node, elected_at, expires_at) "
        "VALUES ('n', timezone('UTC', now()), timezone('UTC', now()) - interval '1 second')",
    )
    assert "engines" in (await looked(fresh_url)).problems()
    query(fresh_url, "UPDATE oban_leaders SET expires_at = expires_at + interval '1 minute'")
    assert (await looked(fresh_url))["engines"].found == "Oban runs on n, with no queues"


async def test_what_was_taken_away_is_found(fresh_url):
    query(fresh_url, "DROP TABLE signal_ledger.repairs CASCADE")
    found = await looked(fresh_url)
    assert "repairs" in found.problems()
    assert 'the database says: relation "signal_ledger.repairs" does not exist' in found["repairs"].found
    assert list(found)[-1] == "compiler"
