"""A ledger that fails: queues go on, jobs do not fail for it, and nothing is lost once it works again (L3, L8)."""

import logging

import pytest
from oban import _extensions, worker

from signal_ledger import await_signal
from tests.eventually import eventually
from tests.postgres.engine.workers import APPROVED, SEEN, Approval, Quick

FAILING = """
CREATE FUNCTION signal_ledger.fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger fails';
END;
$$;
CREATE TRIGGER a_failure BEFORE INSERT ON signal_ledger.events FOR EACH ROW EXECUTE FUNCTION signal_ledger.fail();
"""


async def break_function(it, name):
    await it.change(f"ALTER FUNCTION signal_ledger.{name} RENAME TO {name}_is_gone")


async def mend_function(it, name):
    await it.change(f"ALTER FUNCTION signal_ledger.{name}_is_gone RENAME TO {name}")


async def nothing_is_to_be_repaired(it):
    """What failed to be repaired is tried again in a minute; that is now."""
    await it.change("UPDATE signal_ledger.repairs SET noted_at = clock_timestamp()")
    await eventually(lambda: it.sql("SELECT * FROM signal_ledger.repairs") == [])


async def other_jobs_run(it):
    quick = await Quick.enqueue()
    await it.until(quick, "completed")


@pytest.mark.parametrize("name", ["take", "snooze", "append", "evolve", "close", "tick", "wake"])
async def test_l3_with_a_function_gone_the_queue_goes_on_and_the_job_gets_its_signal_later(it, name, caplog):
    await break_function(it, name)
    job = await Approval.enqueue()
    await it.until(job, "scheduled")
    for _ in range(3):
        await other_jobs_run(it)
    found = await it.oban.get_job(job.id)
    assert (found.attempt <= 1, found.errors) == (True, [])
    await mend_function(it, name)
    await it.until_status(job, "snoozed")
    await it.engine.signal(job, APPROVED)
    await it.until(job, "completed")
    assert SEEN.count(APPROVED) == 1
    assert await it.kinds(job) == ["snoozed", "delivered", "consumed", "closed"]
    await nothing_is_to_be_repaired(it)


async def test_l3_with_the_upkeep_gone_jobs_are_staged_all_the_same(it, caplog):
    await break_function(it, "tick")
    job = await Quick.enqueue(scheduled_in=0.1)
    await it.until(job, "completed")
    assert "the ledger's upkeep failed" in caplog.text
    assert "Stager failed" not in caplog.text


async def test_l3_with_a_log_that_refuses_events_the_queue_goes_on(it):
    await it.change(FAILING)
    jobs = await it.engine.enqueue_many(Approval.new({"window": window}) for window in (0, 0, 60))
    for job in jobs:
        await it.until(job, "scheduled")
    await other_jobs_run(it)
    await it.change("DROP TRIGGER a_failure ON signal_ledger.events")
    await it.engine.signal(jobs, APPROVED)
    for job in jobs:
        assert (await it.until(job, "completed")).errors == []


async def test_l3_one_bad_stream_does_not_put_off_the_others(it, caplog):
    """Those that are acknowledged together with it are put to sleep all the same."""
    await it.change(FAILING.replace("FOR EACH ROW", "FOR EACH ROW WHEN (NEW.job_id = 2)"))
    await it.oban.pause_queue("default")
    jobs = await it.engine.enqueue_many(Approval.new() for _ in range(3))
    await it.oban.resume_queue("default")
    for job in (jobs[0], jobs[2]):
        await it.until_status(job, "snoozed")
    assert all([(await it.oban.get_job(job.id)).meta["snoozed"] == 1 for job in (jobs[0], jobs[2])])
    assert "job 2: the ledger failed" in caplog.text
    await it.change("DROP TRIGGER a_failure ON signal_ledger.events")
    await it.until_status(jobs[1], "snoozed")


async def test_l3_an_end_that_could_not_be_appended_is_appended_later(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await it.change(FAILING.replace("FOR EACH ROW", "FOR EACH ROW WHEN (NEW.kind = 'closed')"))
    await it.engine.signal(job, APPROVED)
    await it.until(job, "completed")
    report = await it.ledger.verify()
    assert not report.ok
    await it.change("DROP TRIGGER a_failure ON signal_ledger.events")
    await nothing_is_to_be_repaired(it)
    assert await it.kinds(job) == ["awaited", "delivered", "consumed", "closed"]


async def test_l3_a_bad_entry_does_not_keep_the_others_from_repair(it):
    jobs = await it.engine.enqueue_many(Approval.new({"window": 60}) for _ in range(2))
    for job in jobs:
        await it.until_status(job, "live")
    await it.change(FAILING.replace("FOR EACH ROW", "FOR EACH ROW WHEN (NEW.kind = 'closed')"))
    await it.engine.signal(jobs, APPROVED)
    for job in jobs:
        await it.until(job, "completed")
    await it.change("DROP TRIGGER a_failure ON signal_ledger.events; DROP FUNCTION signal_ledger.fail")
    await it.change(FAILING.replace("FOR EACH ROW", f"FOR EACH ROW WHEN (NEW.job_id = {jobs[0].id})"))
    await it.change("UPDATE signal_ledger.repairs SET noted_at = clock_timestamp()")
    await it.until_status(jobs[1], "closed")
    await it.change("DROP TRIGGER a_failure ON signal_ledger.events")
    await nothing_is_to_be_repaired(it)
    await it.until_status(jobs[0], "closed")


async def test_l8_what_only_a_newer_library_can_repair_stays_and_costs_no_commit(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await it.change("UPDATE signal_ledger.waits SET schema_version = 3")
    await it.oban._query.cancel_many_jobs([job.id])
    await it.change("INSERT INTO signal_ledger.repairs VALUES (%s, 'completed', clock_timestamp())", job.id)
    [[before]] = it.sql("SELECT xmin::text FROM signal_ledger.repairs")
    for _ in range(3):
        [[xid_before]] = it.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        await it.change("SELECT signal_ledger.tick(100)")
        [[xid_after]] = it.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        if xid_before == xid_after:
            break
    assert xid_before == xid_after
    assert it.sql("SELECT xmin::text FROM signal_ledger.repairs") == [(before,)]
    await it.change("UPDATE signal_ledger.waits SET schema_version = 1")
    await it.change("DELETE FROM signal_ledger.repairs")


async def test_w10_a_retry_closes_the_run_whose_end_is_only_noted(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await break_function(it, "tick")
    await it.change(FAILING.replace("FOR EACH ROW", "FOR EACH ROW WHEN (NEW.kind = 'closed')"))
    await it.engine.signal([job], APPROVED)
    await it.until(job, "completed")
    await it.change("DROP TRIGGER a_failure ON signal_ledger.events")
    await it.engine.retry_job(job)
    await it.until_status(job, "live")
    assert it.sql("SELECT * FROM signal_ledger.repairs") == []
    await mend_function(it, "tick")
    await it.engine.signal(job, APPROVED)
    await it.until(job, "completed")
    assert [recorded.run for recorded in await it.ledger.history(job.id)] == [1] * 4 + [2] * 4


async def test_w12_a_cancel_of_the_old_run_does_not_reach_the_new_one(it):
    """The job ended although it was cancelled, while the ledger failed; what was noted of the cancel ends with it."""
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await it.change(FAILING.replace("FOR EACH ROW", "FOR EACH ROW WHEN (NEW.kind = 'closed')"))
    await it.engine.cancel_job(job)
    await it.until(job, "cancelled")
    assert it.sql("SELECT * FROM signal_ledger.cancels") == []
    await it.change("DROP TRIGGER a_failure ON signal_ledger.events")
    await it.engine.retry_job(job)
    await it.until_status(job, "live")
    await it.engine.signal(job, APPROVED)
    await it.until(job, "completed")


async def test_l8_a_stream_of_a_newer_library_snoozes_the_job(it):
    job = await Approval.enqueue({"wait_for": 0.4})
    await it.until_status(job, "snoozed")
    await it.change("UPDATE signal_ledger.waits SET schema_version = 3")

    async def put_off():
        found = await it.oban.get_job(job.id)
        return found.meta.get("snoozed") == 2 and found.state == "scheduled"

    await eventually(put_off)
    await it.change("UPDATE signal_ledger.waits SET schema_version = 1")
    assert await it.kinds(job) == ["snoozed"]


async def test_a_connection_that_breaks_in_the_acknowledgement_is_no_loss(it, monkeypatch, caplog):
    point = "query.ack_jobs"
    ours = _extensions._extensions[point]
    [previous] = ours.args
    killed = []

    async def killing(query, acks):
        done = await previous(query, acks)
        if not killed:
            async with query._pool.connection() as connection:
                killed.append(connection.info.backend_pid)
            await it.change("SELECT pg_terminate_backend(%s)", killed[0])
        return done

    monkeypatch.setitem(_extensions._extensions, point, type(ours)(ours.func, killing))
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    assert killed
    assert "Error in producer" not in caplog.text
    await it.engine.signal(job, APPROVED)
    await it.until(job, "completed")


async def test_acknowledgements_that_failed_are_tried_again_within_a_second(it, monkeypatch):
    """By itself Oban waits for the queue's next event, which may never come."""
    point = "query.ack_jobs"
    ours = _extensions._extensions[point]
    failed = []

    async def failing(query, acks):
        if len(failed) < 2:
            failed.append(acks)
            raise OSError("no database")
        return await ours(query, acks)

    monkeypatch.setitem(_extensions._extensions, point, failing)
    job = await Quick.enqueue()
    await it.until(job, "completed")
    assert len(failed) == 2


async def test_connections_that_break_in_a_live_window_do_not_fail_the_job(it, caplog):
    @worker(max_attempts=1)
    class Patient:
        async def process(self, job):
            SEEN.append(await await_signal(wait_timeout=60))

    job = await Patient.enqueue()
    await it.until_status(job, "live")
    killed = await it.change(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE '%%signal_ledger_.take%%' AND pid <> pg_backend_pid()"
    )
    assert killed
    with caplog.at_level(logging.WARNING):
        await it.engine.signal(job, "through it all")
        await it.until(job, "completed")
    assert SEEN == ["through it all"]
