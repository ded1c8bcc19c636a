"""Once a second a process asks which of its live waits should look, all of them in one question."""

from signal_ledger.commands import Take
from signal_ledger.names import Execution


async def test_a_job_that_is_about_to_wait_keeps_no_other_from_its_signal(bench):
    waiting, about_to_wait = await bench.insert(), await bench.insert()
    live = [(job_id, await bench.fetch(job_id)) for job_id in (waiting, about_to_wait)]
    take = Take(job_id=waiting, execution=live[0][1], channel="", ordinal=1, wait_for=None, in_place=True, window=True)
    await bench.store.take(take)
    assert await bench.store.look(live) == []
    await bench.signaller.send(waiting, "go")
    assert await bench.store.look(live) == [waiting]


async def test_a_superseded_execution_is_told_to_look(bench):
    job_id = await bench.insert()
    execution = await bench.fetch(job_id)
    assert await bench.store.look([(job_id, Execution(execution + 1))]) == [job_id]
