"""Histories that Oban on PostgreSQL has recorded, run again, also beside it (promises L6, W9)."""

import pytest
from oban import worker

from signal_ledger import History, await_signal, open_ledger, rerun, signal
from signal_ledger_adapters.oban_api import path_of
from tests.eventually import eventually
from tests.recorded_sales import SEEN, FewerAwaits, MoreAwaits, Noted, Sale, Telling, sold


@pytest.fixture(autouse=True)
def _forget_sales():
    SEEN.clear()


async def test_w9_a_recorded_job_comes_to_the_same_in_a_rerun(it, tmp_path):
    sale = await sold(it)
    (await it.ledger.export(sale)).save(tmp_path / "incident.jsonl")
    history = History.load(tmp_path / "incident.jsonl")
    assert list(history) == await it.ledger.history(sale)
    [then] = SEEN
    seen = []

    @worker()
    class Looking(Sale):
        async def process(self, job):
            seen.append(job)
            return await super().process(job)

    report = await rerun(Looking, history)
    assert [then, then] == SEEN
    assert (report.ended, report.cause, report.attempt) == ("returned", "completed", 2)
    [job] = seen
    assert (job.attempted_at, job.attempted_by) == (sale.attempted_at, sale.attempted_by)
    assert [error["attempt"] for error in job.errors] == [1]
    assert (await rerun(MoreAwaits, history)).ended == "diverged"
    assert (await rerun(FewerAwaits, history)).ended == "diverged"


async def test_w9_a_rerun_of_what_was_known_then_stops_where_the_job_was(it):
    history = await it.engine.ledger.export(await sold(it))
    endings = set()
    for version in range(len(history)):
        cut = history.until(version)
        report = await rerun(Sale, cut)
        got = [each.version for each in report.awaits if each.version is not None]
        assert got == [event.version for event in cut if event.kind in ("consumed", "timed_out")]
        # The first attempt failed when it had got its first vote.
        expected = "raised" if (report.attempt, len(got)) == (1, 3) else "returned" if len(got) == 4 else "stopped"
        assert report.ended == expected
        endings.add(expected)
    assert len(endings) == 3


async def test_l6_a_job_that_is_gone_is_run_again_with_its_args_given(it, ledger_url):
    sale = await sold(it)
    await it.engine.delete_job(sale)
    async with open_ledger(ledger_url, read_only=True) as ledger:
        history = await ledger.export(sale.id)
    assert history.job is None
    assert (await rerun(Sale, history, args={"order": 12})).ok


async def test_a_row_without_documents_is_exported_as_an_empty_one(it):
    """Oban's schema for other languages lets them be null."""
    sale = await sold(it)
    for name in ("meta", "tags", "errors", "attempted_by"):
        await it.change(f"ALTER TABLE oban_jobs ALTER {name} DROP NOT NULL")
    await it.change(
        "UPDATE oban_jobs SET meta = NULL, tags = NULL, errors = NULL, attempted_by = NULL WHERE id = %s", sale.id
    )
    row = (await it.ledger.export(sale)).job
    assert (row.meta, row.tags, row.errors, row.attempted_by) == ({}, (), (), ())


async def test_a_rerun_beside_an_open_engine_writes_nothing(it):
    telling = await Telling.enqueue()
    await signal(telling, "go")
    await it.until(telling, "completed")
    await eventually(lambda: {"by": telling.id} in SEEN)
    history = await it.ledger.export(telling)
    before = everything(it)
    report = await rerun(Telling, history)
    assert [receipt.outcome for receipt in report.result] == ["ignored"] * 2
    assert [(job.worker, dict(job.args)) for job in report.jobs] == [(path_of(Noted), {"by": telling.id})]

    @worker()
    class AtHand:
        """What an engine, or an Oban, at hand does for it is not done either."""

        async def process(self, job):
            await await_signal()
            await it.engine.enqueue(Noted.new({"by": "engine"}))
            with pytest.raises(TypeError, match=r"job: expected a Job, such as .* got builtins.dict"):
                await it.engine.enqueue_many(Noted.new(), {"by": "engine"})
            await it.oban.enqueue(Noted.new({"by": "oban"}))
            await it.oban.enqueue_many(Noted.new(), Noted.new(), conn=object())
            await it.engine.signal(job, "told", conn=object())
            for call in (it.engine.cancel_job, it.engine.retry_job, it.engine.delete_job, it.engine.get_job):
                with pytest.raises(RuntimeError, match="engine 'Oban': expected no such call in a rerun"):
                    await call(job)
            with pytest.raises(RuntimeError, match="expected no such call in a rerun"):
                _ = it.engine.ledger

    report = await rerun(AtHand, history)
    assert (report.ended, len(report.jobs), len(report.signals)) == ("returned", 4, 1)
    assert everything(it) == before


def everything(it):
    return it.sql("SELECT id, state::text FROM oban_jobs ORDER BY id"), it.sql(
        "SELECT count(*) FROM signal_ledger.events"
    )
