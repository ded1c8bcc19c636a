"""Whatever a database's defaults are, wake-ups are not lost and deliveries are durable (promises D1, W5, W10, L3)."""

import asyncio

import psycopg
import pytest
from oban import Oban, Record, worker
from psycopg_pool import AsyncConnectionPool

from signal_ledger import SignalTimeout, attach, await_signal, open_ledger
from tests.eventually import eventually

LEVELS = ["repeatable read", "serializable"]

# What each event is written under, as it is when the transaction commits.
WITNESS = """
CREATE TABLE witness (kind text, durability text, isolation text);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.witness
    VALUES (NEW.kind, current_setting('synchronous_commit'), current_setting('transaction_isolation'));
    RETURN NULL;
END;
$$;
CREATE CONSTRAINT TRIGGER witness AFTER INSERT ON signal_ledger.events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION witness();
"""


@worker(max_attempts=1000)
class Twice:
    async def process(self, job):
        first = await await_signal(wait_timeout=job.args["window"])
        try:
            await await_signal(wait_for=0.05, wait_timeout=job.args["window"], channel="silent")
        except SignalTimeout:
            return Record([first, await await_signal(wait_timeout=job.args["window"])])


def set_default(url, name, value):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {name} = '{value}'")


async def play(url):
    """Let jobs wait, live and asleep, signal them, and return what each event was written under."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(WITNESS)
    async with (
        AsyncConnectionPool(url, min_size=1, open=False) as pool,
        attach(Oban(pool=pool, queues={"default": 10}, stager={"interval": 0.1})) as engine,
        open_ledger(url) as elsewhere,
    ):
        jobs = await engine.enqueue_many(Twice.new({"window": window}) for window in (0, 30))

        async def all_wait():
            return len(await elsewhere.waiting()) == len(jobs)

        await eventually(all_wait)
        for number in (1, 2):
            await elsewhere.signal([job.id for job in jobs], number)

        async def all_completed():
            return all([(await engine.get_job(job.id)).state == "completed" for job in jobs])

        await eventually(all_completed)

        async def all_closed():
            return [(await elsewhere.history(job.id))[-1].kind for job in jobs] == ["closed", "closed"]

        await eventually(all_closed)
        report = await elsewhere.verify()
        assert report.ok, str(report)
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT DISTINCT kind, durability, isolation FROM witness").fetchall()


@pytest.mark.parametrize("level", LEVELS)
async def test_w5_the_library_works_where_another_isolation_level_is_the_default(ledger_url, level):
    set_default(ledger_url, "default_transaction_isolation", level)
    seen = await play(ledger_url)
    assert {kind for kind, _, _ in seen} == {"awaited", "snoozed", "delivered", "consumed", "timed_out", "closed"}
    assert {isolation for _, _, isolation in seen} == {"read committed"}


@pytest.mark.parametrize(
    ("default", "used"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
async def test_d1_deliveries_are_durable_where_others_are_not(ledger_url, default, used):
    set_default(ledger_url, "synchronous_commit", default)
    seen = await play(ledger_url)
    # The end of a run is as durable as the job's own, of which it is a part.
    assert {(kind, durability) for kind, durability, _ in seen if kind != "closed"} == {
        (kind, used) for kind in ("awaited", "snoozed", "delivered", "consumed", "timed_out")
    }


CALLS = {
    "deliver": "SELECT signal_ledger.deliver(ARRAY[1], ARRAY[true], ARRAY[{job}::bigint], ARRAY['a'], ARRAY[''], "
    "ARRAY['\\x8361'::bytea], ARRAY[repeat('0', 64)], ARRAY[NULL], ARRAY[''], ARRAY[NULL])",
    "take": "SELECT signal_ledger.take(ARRAY[{job}::bigint], ARRAY[1::bigint], ARRAY[''], ARRAY[1], "
    "ARRAY[NULL::interval], ARRAY[false], ARRAY[true])",
    "snooze": "SELECT signal_ledger.snooze(ARRAY[{job}::bigint], ARRAY[1::bigint], ARRAY[''], ARRAY[1], "
    "ARRAY[NULL::interval], 'cancelled')",
    "signal": "SELECT signal_ledger.signal({job}, '\\x8361')",
    "rebuild": "SELECT signal_ledger.rebuild(0, 10)",
}


@pytest.mark.parametrize("name", CALLS)
async def test_d1_what_forces_durability_holds_until_the_commit_and_no_longer(bench, ledger_url, name):
    """The functions have settings of their own, which end with them; this one must not."""
    job_id = await bench.insert()
    await bench.fetch(job_id)
    with psycopg.connect(ledger_url) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.commit()
        connection.execute(CALLS[name].format(job=job_id))
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        connection.commit()
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CALLS)
async def test_w5_what_writes_refuses_other_isolation_levels(bench, ledger_url, name, level):
    job_id = await bench.insert()
    await bench.fetch(job_id)
    with psycopg.connect(ledger_url) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        refusal = f"W5: expected a transaction of isolation level READ COMMITTED, this one is {level.upper()}"
        with pytest.raises(psycopg.errors.InvalidTransactionState, match=refusal):
            connection.execute(CALLS[name].format(job=job_id))
        connection.rollback()
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")  # which is READ COMMITTED here
        connection.execute(CALLS[name].format(job=job_id))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", ["UPDATE oban_jobs SET state = 'cancelled'", "DELETE FROM oban_jobs"])
async def test_w10_an_end_in_a_transaction_that_does_not_see_the_last_event_is_appended_later(
    bench, ledger_url, level, how
):
    job_id = await bench.insert()
    with psycopg.connect(ledger_url) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        connection.execute("SELECT FROM signal_ledger.events")
        await bench.signaller.send(job_id, 1)
        connection.execute(f"{how} WHERE id = %s", [job_id])
    assert (await bench.job(job_id) or type("Gone", (), {"state": "cancelled"})).state == "cancelled"
    await bench.store.tick()
    assert [event.kind for event in await bench.store.history(job_id)] == ["delivered", "closed"]


async def test_a_signal_waits_for_nothing_but_the_jobs_lock(ledger_url):
    """A caller of a serializable transaction on other tables is no conflict."""
    async with open_ledger(ledger_url) as ledger, await psycopg.AsyncConnection.connect(ledger_url) as other:
        await other.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        [job_id] = await (await other.execute("INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")).fetchone()
        await other.commit()
        await other.execute("SELECT * FROM signal_ledger.events")
        receipt = await asyncio.wait_for(ledger.signal(job_id, 1), 30)
        assert receipt.outcome == "buffered"
