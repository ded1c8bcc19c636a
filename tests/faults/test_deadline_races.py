"""Signals of three processes at the instant of the deadline, on the embedded engine (promise W7)."""

from signal_ledger import lite
from tests.deadlines import race


async def test_w7_signals_at_the_deadline_agree_with_the_log_whoever_comes_first(tmp_path, record_property):
    url = f"sqlite:///{tmp_path}/signals.db"
    async with lite(url, {"default": 200}) as engine:

        async def pause(is_paused):
            engine._queues["default"].paused = is_paused
            engine._runner.kick()

        outcomes = await race(url, engine, engine.get_job, pause, 40, record_property)
    assert set(outcomes) == {"timeout", "signal"}
    for name, count in outcomes.items():
        record_property(name, count)
