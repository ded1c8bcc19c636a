"""One timer for many calls."""

import asyncio

import pytest

from signal_ledger_adapters.postgres.alarm import Alarm


async def test_each_future_ends_at_its_deadline_and_none_before():
    alarm = Alarm()
    loop = asyncio.get_running_loop()
    ended = {}

    async def wait(number, deadline):
        future = loop.create_future()
        alarm.set(future, deadline)
        with pytest.raises(TimeoutError):
            await future
        ended[number] = loop.time()
        alarm.unset(future)

    began = loop.time()
    deadlines = [began + delay_s for delay_s in (0.2, 0.05, 0.12, -1.0)]
    await asyncio.gather(*[wait(number, deadline) for number, deadline in enumerate(deadlines)])
    assert sorted(ended, key=ended.get) == [3, 1, 2, 0]
    assert all(ended[number] >= deadline for number, deadline in enumerate(deadlines))


async def test_thousands_of_deadlines_that_differ_by_microseconds_take_a_few_rings(monkeypatch):
    """Each ring looks at all futures: one ring for each would keep the event loop busy for seconds."""
    alarm = Alarm()
    loop = asyncio.get_running_loop()
    rings = 0
    ring = alarm._ring

    def counted(loop):
        nonlocal rings
        rings += 1
        ring(loop)

    monkeypatch.setattr(alarm, "_ring", counted)
    futures = [loop.create_future() for _ in range(10_000)]
    began = loop.time()
    for number, future in enumerate(futures):
        alarm.set(future, began + 0.05 + number * 1e-6)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, TimeoutError) for result in results)
    assert rings < 20


async def test_those_that_are_left_are_ended_together_and_those_that_have_results_keep_them():
    alarm = Alarm()
    loop = asyncio.get_running_loop()
    left, done = loop.create_future(), loop.create_future()
    for future in (left, done):
        alarm.set(future, loop.time() + 60)
    done.set_result("result")
    alarm.end_all("closed")
    assert await done == "result"
    with pytest.raises(TimeoutError, match="closed"):
        await left
