"""Signals of three processes at the instant of the deadline, on Oban (promise W7)."""

from tests.deadlines import race


async def test_w7_signals_at_the_deadline_agree_with_the_log_whoever_comes_first(start, record_property):
    it = await start({"default": 200})

    async def pause(is_paused):
        await (it.oban.pause_queue("default") if is_paused else it.oban.resume_queue("default"))

    outcomes = await race(it.url, it.engine, it.oban.get_job, pause, 40, record_property)
    assert set(outcomes) == {"timeout", "signal"}
    for name, count in outcomes.items():
        record_property(name, count)
