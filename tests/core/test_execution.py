"""Awaits in an execution, against the reference store, without an engine (promises W1 to W3, W6, W9, W11 to W13)."""

import asyncio
import logging
from datetime import timedelta

import pytest

import signal_ledger.execution
from signal_ledger import await_signal, signal
from signal_ledger.delivery import Sender
from signal_ledger.embedded.operations import GetJobs
from signal_ledger.errors import PayloadError, SignalTimeout, StaleExecution
from signal_ledger.events import Delivered
from signal_ledger.execution import (
    Cancelled,
    EndExecution,
    Execution,
    Sleep,
    Superseded,
    TryLater,
    current_execution,
    no_execution,
    when_stray,
)
from signal_ledger.jobs import JobState
from signal_ledger.memory import MemoryStore
from signal_ledger.ports import StoreUnavailableError
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.upcast import NewerEventError
from tests.core.test_delivery import AnEngine


class Place:
    def __init__(self, room):
        self.room = room

    async def hint(self, timeout_s):
        self.room.hints.append(timeout_s)
        await self.room.on_hint(timeout_s)

    def give_hint(self):
        self.room.given += 1
        self.room.hinted.set()


class Room:
    """A waiting room whose tests say what happens while a job waits: by default its time passes."""

    def __init__(self, bench):
        self.bench = bench
        self.is_closing = False
        self.places = 1
        self.hints = []
        self.given = 0
        self.hinted = asyncio.Event()
        self.on_hint = self.time_passes

    async def time_passes(self, timeout_s):
        self.bench.clock.advance(timeout_s)
        await asyncio.sleep(timeout_s)

    async def take(self, take):
        return await self.bench.store.take(take)

    def enter(self, _job_id):
        if self.is_closing or not self.places:
            return None
        self.places -= 1
        return Place(self)

    def leave(self, _job_id, _live):
        self.places += 1


class World:
    def __init__(self):
        self.clock = ManualClock()
        self.bench = EmbeddedBench(MemoryStore(self.clock), self.clock)
        self.room = Room(self.bench)
        self.engine = AnEngine("test", Sender(store=self.bench.store, new_id=self.bench.signaller._new_id))

    async def job(self):
        self.job_id = await self.bench.insert()
        return self.job_id

    async def execute(self, process, *, ends_in=None):
        """Run a process as an execution of the job; return the execution and what came out."""
        token = await self.bench.fetch(self.job_id)
        assert token is not None
        ends_by = None if ends_in is None else asyncio.get_running_loop().time() + ends_in
        execution = Execution(job_id=self.job_id, token=token, engine=self.engine, room=self.room, ends_by=ends_by)
        try:
            result = await execution.run(process)
        except (Exception, asyncio.CancelledError) as error:
            result = error
        if isinstance(execution.ending, Sleep):
            await self.bench.sleep(
                self.job_id,
                token,
                channel=execution.ending.wait.channel,
                ordinal=execution.ending.wait.ordinal,
                wait_for=execution.ending.wait.wait_for and execution.ending.wait.wait_for.total_seconds(),
            )
        return execution, result

    async def kinds(self):
        return [recorded.kind.value for recorded in await self.bench.store.history(self.job_id)]


@pytest.fixture
async def world():
    world = World()
    await world.job()
    return world


async def test_w1_outside_of_a_job_there_is_nothing_to_wait_for():
    with pytest.raises(RuntimeError, match="expected to be called inside a job's process"):
        await await_signal()


async def test_w1_an_engine_is_told_of_it(monkeypatch):
    """The caller may be a job that it knows."""
    told = []
    monkeypatch.setattr(signal_ledger.execution, "_tell_stray", None)
    with pytest.raises(RuntimeError):
        await await_signal()
    when_stray(lambda: told.append("stray"))
    with pytest.raises(RuntimeError):
        await await_signal()
    assert told == ["stray"]


async def test_w1_what_runs_beside_an_execution_does_not_belong_to_it(world):
    async def process():
        with no_execution(), pytest.raises(RuntimeError, match="inside a job's process"):
            await await_signal()
        return await await_signal(wait_timeout=60)

    await world.bench.signaller.send(world.job_id, "for the job")
    _, result = await world.execute(process)
    assert result == "for the job"


async def test_w5_an_await_whose_answer_comes_after_the_end_changes_nothing(world):
    """The question was under way when `process` returned; the answer is to snooze."""
    asked, answered = asyncio.Event(), asyncio.Event()
    take = world.room.take

    async def slow(question):
        asked.set()
        reply = await take(question)
        await answered.wait()
        return reply

    world.room.take = slow
    left = []

    async def process():
        left.append(asyncio.create_task(await_signal(wait_timeout=0)))
        await asked.wait()
        return "my own result"

    execution, result = await world.execute(process)
    answered.set()
    await asyncio.wait(left)
    assert left[0].exception() is not None
    assert (result, execution.ending) == ("my own result", None)


async def test_w1_after_process_has_returned_there_is_nothing_to_wait_for(world):
    left = []

    async def process():
        left.append(asyncio.create_task(late()))

    async def late():
        await asyncio.sleep(0.01)
        await await_signal()

    await world.execute(process)
    with pytest.raises(RuntimeError, match="process has returned"):
        await left[0]
    assert await world.kinds() == []


async def test_w1_an_await_that_outlives_process_is_ended_and_gives_its_place_back(world):
    left = []

    async def process():
        for _ in range(2):
            left.append(asyncio.create_task(await_signal(wait_timeout=3600)))
        await asyncio.wait_for(waiting.wait(), 10)

    async def wait(_timeout_s):
        waiting.set()
        await world.room.hinted.wait()

    waiting = asyncio.Event()
    world.room.on_hint = wait
    await world.execute(process)
    for task in left:
        with pytest.raises(RuntimeError, match="process has returned"):
            await task
    assert world.room.given == 1
    assert world.room.places == 1


async def test_w3_a_wait_in_place_is_snoozed_if_the_clock_of_the_store_stands_still(world, monkeypatch):
    loop = asyncio.get_running_loop()
    here = [loop.time()]

    async def process():
        await await_signal(wait_for=0.01, wait_timeout=0.01)

    async def only_here(timeout_s):
        here[0] += timeout_s

    world.room.on_hint = only_here
    monkeypatch.setattr(loop, "time", lambda: here[0])
    execution, _ = await world.execute(process)
    assert isinstance(execution.ending, Sleep)
    assert await world.kinds() == ["awaited", "snoozed"]


async def test_w1_another_event_loop_cannot_wait_for_the_job(world):
    async def process():
        return await asyncio.to_thread(lambda: asyncio.run(await_signal()))

    _, result = await world.execute(process)
    assert isinstance(result, RuntimeError)
    assert "expected the event loop that runs job" in str(result)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"wait_for": -1}, ValueError),
        ({"wait_for": "1"}, TypeError),
        ({"wait_timeout": True}, TypeError),
        ({"wait_timeout": float("nan")}, ValueError),
        ({"channel": ""}, ValueError),
        ({"channel": 5}, TypeError),
    ],
)
async def test_bad_input_is_refused_before_anything_is_written(world, arguments, error):
    async def process():
        await await_signal(**arguments)

    _, result = await world.execute(process)
    assert isinstance(result, error)
    assert await world.kinds() == []


async def test_w2_a_pending_signal_is_returned_at_once(world):
    await world.bench.signaller.send(world.job_id, {"decision": "approved"})

    async def process():
        return await await_signal()

    execution, result = await world.execute(process)
    assert (result, execution.ending, world.room.hints) == ({"decision": "approved"}, None, [])
    assert await world.kinds() == ["delivered", "consumed"]


async def test_w3_a_signal_in_the_window_resumes_in_place(world):
    async def on_hint(_timeout_s):
        await world.bench.signaller.send(world.job_id, "live")

    world.room.on_hint = on_hint

    async def process():
        return await await_signal(wait_timeout=3)

    execution, result = await world.execute(process)
    assert (result, execution.ending) == ("live", None)
    assert 2.9 < world.room.hints[0] <= 3
    assert world.room.places == 1
    assert await world.kinds() == ["awaited", "delivered", "consumed"]


async def test_w3_after_the_window_the_job_sleeps(world):
    async def process():
        await await_signal(wait_for=timedelta(days=1), wait_timeout=0.02)

    execution, result = await world.execute(process)
    assert result is None
    assert isinstance(execution.ending, Sleep)
    assert await world.kinds() == ["awaited", "snoozed"]
    assert world.room.places == 1


async def test_w3_a_window_of_0_sleeps_at_once(world):
    async def process():
        await await_signal(wait_timeout=0)

    await world.execute(process)
    assert (await world.kinds(), world.room.hints) == (["snoozed"], [])


async def test_w3_without_a_place_or_when_the_engine_stops_it_sleeps_at_once(world):
    async def process():
        await await_signal()

    world.room.places = 0
    await world.execute(process)
    assert await world.kinds() == ["snoozed"]
    world.room.places = 1
    world.room.is_closing = True
    await world.bench.retry(world.job_id)
    await world.execute(process)
    assert await world.kinds() == ["snoozed", "snoozed"]


async def test_w3_a_stop_in_the_window_ends_it(world):
    async def on_hint(_timeout_s):
        world.room.is_closing = True

    world.room.on_hint = on_hint

    async def process():
        await await_signal()

    await world.execute(process)
    assert await world.kinds() == ["awaited", "snoozed"]


async def test_w3_the_window_ends_before_the_workers_own_timeout(world):
    async def process():
        await await_signal(wait_timeout=60)

    await world.execute(process, ends_in=0.02)
    assert await world.kinds() == ["awaited", "snoozed"]
    assert world.room.hints[0] <= 0.02


async def test_w3_with_no_time_left_there_is_no_window(world):
    async def process():
        await await_signal(wait_timeout=60)

    await world.execute(process, ends_in=-1)
    assert await world.kinds() == ["snoozed"]


async def test_w6_a_wait_within_its_window_times_out_in_place(world):
    async def process():
        try:
            await await_signal(wait_for=0.02, wait_timeout=0.02)
        except SignalTimeout as timeout:
            return timeout

    execution, timeout = await world.execute(process)
    assert execution.ending is None
    assert (timeout.job_id, timeout.channel, timeout.ordinal) == (world.job_id, None, 1)
    assert "no signal on the default channel by 2026-01-01T12:00:00.020+00:00 (await 1)" in str(timeout)
    assert await world.kinds() == ["awaited", "timed_out"]


async def test_w6_a_wait_within_its_window_sleeps_if_the_worker_would_time_out_before(world):
    async def process():
        await await_signal(wait_for=4, wait_timeout=5)

    await world.execute(process, ends_in=0.02)
    awaited, snoozed = await world.bench.store.history(world.job_id)
    assert awaited.deadline_at == snoozed.deadline_at


async def test_w6_waiting_for_0_seconds_polls(world):
    async def process():
        with pytest.raises(SignalTimeout):
            await await_signal(wait_for=0, wait_timeout=0, channel="c")
        return await await_signal(wait_for=0)

    await world.bench.signaller.send(world.job_id, "there")
    _, result = await world.execute(process)
    assert result == "there"


async def test_w9_awaits_are_replayed_from_the_top_in_every_execution(world):
    seen = []

    async def process():
        votes = [await await_signal(wait_timeout=0, channel="votes") for _ in range(3)]
        seen.append(votes)
        try:
            await await_signal(wait_for=0.01)
        except SignalTimeout:
            votes.append("timeout")
        if len(seen) == 1:
            raise ValueError("after all awaits")
        return votes

    for vote in (1, 2, 3):
        await world.execute(process)
        await world.bench.signaller.send(world.job_id, vote, channel="votes")
    _, error = await world.execute(process)
    assert isinstance(error, ValueError)
    token = (await world.bench.store.read(GetJobs(job_ids=(world.job_id,))))[0].execution
    await world.bench.finish(world.job_id, token, JobState.RETRYABLE)
    before = await world.kinds()
    _, result = await world.execute(process)
    assert result == [1, 2, 3, "timeout"]
    assert await world.kinds() == before


async def test_w11_except_exception_does_not_stop_the_snooze(world):
    ran = []

    async def process():
        try:
            await await_signal(wait_timeout=0)
        except Exception:
            ran.append("handler")
        ran.append("after")

    execution, _ = await world.execute(process)
    assert (ran, isinstance(execution.ending, Sleep)) == ([], True)


async def swallow_base():
    try:
        await await_signal(wait_timeout=0)
    except BaseException:
        return "swallowed"


async def swallow_finally():
    try:
        await await_signal(wait_timeout=0)
    finally:
        return "swallowed"  # noqa: B012


async def swallow_other_error():
    try:
        await await_signal(wait_timeout=0)
    except BaseException as error:
        raise ValueError("another") from error


async def swallow_gather():
    return await asyncio.gather(await_signal(wait_timeout=0), asyncio.sleep(0), return_exceptions=True)


async def swallow_group():
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(await_signal(wait_timeout=0))
            group.create_task(asyncio.sleep(60))
    except* BaseException:
        pass
    return "swallowed"


async def swallow_task():
    task = asyncio.create_task(await_signal(wait_timeout=0))
    await asyncio.wait([task])
    task.exception()
    return "swallowed"


async def swallow_shield():
    try:
        await asyncio.shield(await_signal(wait_timeout=0))
    except BaseException:
        return "swallowed"


async def swallow_and_return_a_result():
    try:
        await asyncio.wait_for(await_signal(wait_timeout=0), 60)
    except BaseException:
        return {"done": True}


SWALLOWERS = [
    swallow_base,
    swallow_finally,
    swallow_other_error,
    swallow_gather,
    swallow_group,
    swallow_task,
    swallow_shield,
    swallow_and_return_a_result,
]


@pytest.mark.parametrize("process", SWALLOWERS, ids=lambda process: process.__name__)
async def test_w11_the_snooze_cannot_be_swallowed(world, process):
    execution, _ = await world.execute(process)
    assert isinstance(execution.ending, Sleep)
    assert await world.kinds() == ["snoozed"]


async def test_w11_every_further_await_of_the_execution_stops_at_once(world):
    endings = []

    async def process():
        for channel in ("a", "b", None):
            try:
                await await_signal(wait_timeout=0, channel=channel)
            except EndExecution as ending:
                endings.append(ending)

    await world.bench.signaller.send(world.job_id, "pending on b", channel="b")
    execution, _ = await world.execute(process)
    assert len(endings) == 3
    assert execution.ending.wait.channel == "a"
    assert await world.kinds() == ["delivered", "snoozed"]


async def test_w11_a_cancelled_await_records_nothing_and_the_next_one_continues_it(world):
    async def on_hint(_timeout_s):
        await asyncio.Event().wait()

    world.room.on_hint = on_hint

    async def process():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(await_signal(), 0.01)
        assert await world.kinds() == ["awaited"]
        await world.bench.signaller.send(world.job_id, "for the same await")
        return await await_signal()

    _, result = await world.execute(process)
    assert result == "for the same await"
    [consumed] = [one for one in await world.bench.store.history(world.job_id) if one.kind == "consumed"]
    assert consumed.ordinal == 1
    assert world.room.places == 1


async def test_w11_a_consumption_committed_during_a_cancel_is_replayed_by_the_next_await(world):
    take = world.room.take

    async def take_and_hang(command):
        await take(command)
        await asyncio.Event().wait()

    world.room.take = take_and_hang
    await world.bench.signaller.send(world.job_id, "taken")

    async def process():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(await_signal(), 0.01)
        world.room.take = take
        return await await_signal()

    _, result = await world.execute(process)
    assert result == "taken"
    assert await world.kinds() == ["delivered", "consumed"]


async def test_w11_concurrent_awaits_are_served_one_after_the_other_in_call_order(world):
    for number in range(4):
        await world.bench.signaller.send(world.job_id, number)

    async def process():
        return await asyncio.gather(*[await_signal() for _ in range(4)])

    _, result = await world.execute(process)
    assert result == [0, 1, 2, 3]


async def test_w11_a_real_error_before_the_snooze_wins(world):
    async def on_hint(_timeout_s):
        await asyncio.Event().wait()

    world.room.on_hint = on_hint

    async def fail():
        await asyncio.sleep(0.01)
        raise ValueError("the real error")

    async def process():
        async with asyncio.TaskGroup() as group:
            group.create_task(await_signal())
            group.create_task(fail())

    execution, result = await world.execute(process)
    assert execution.ending is None
    assert isinstance(result, ExceptionGroup)


async def test_w4_tasks_that_process_leaves_running_are_cancelled_with_the_snooze(world, caplog, monkeypatch):
    monkeypatch.setattr("signal_ledger.execution.LEFTOVER_GRACE_S", 0.05)
    cancelled = []
    left = []

    async def left_over():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append("left over")
            raise

    async def stubborn():
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(0.2)

    async def foreign():
        await asyncio.sleep(0.2)
        return "untouched"

    other = asyncio.create_task(foreign())

    async def process():
        left.extend([asyncio.create_task(left_over()), asyncio.create_task(stubborn())])
        await asyncio.sleep(0)
        await await_signal(wait_timeout=0)

    with caplog.at_level(logging.WARNING):
        await world.execute(process)
    assert cancelled == ["left over"]
    assert "1 tasks did not end when cancelled" in caplog.text
    assert await other == "untouched"
    await left[1]


async def test_w4_tasks_that_end_when_cancelled_are_not_complained_about(world, caplog):
    async def process():
        left.append(asyncio.create_task(asyncio.sleep(60)))
        await asyncio.sleep(0)
        await await_signal(wait_timeout=0)

    left = []
    await world.execute(process)
    assert left[0].cancelled()
    assert caplog.text == ""


async def test_w12_a_cancel_ends_the_wait(world):
    async def on_hint(_timeout_s):
        await world.bench.cancel(world.job_id)

    world.room.on_hint = on_hint

    async def process():
        try:
            await await_signal()
        except BaseException:
            return "swallowed"

    execution, _ = await world.execute(process)
    assert execution.ending == Cancelled()


async def test_w13_a_superseded_execution_stops_at_its_next_await(world):
    seen = []

    async def process():
        await world.bench.rescue()
        try:
            await await_signal()
        except Exception:
            seen.append("handler")
        except StaleExecution as stale:
            seen.append(stale)
            with pytest.raises(StaleExecution, match="was superseded by a newer one"):
                await await_signal()
            raise

    execution, _ = await world.execute(process)
    assert execution.ending == Superseded()
    [stale] = seen
    assert (stale.job_id, stale.execution) == (world.job_id, 1)
    assert await world.kinds() == []


async def test_l7_an_undecodable_signal_is_consumed_and_the_next_ones_are_unharmed(world):
    for payload in (1, 2):
        await world.bench.signaller.send(world.job_id, payload)
    _break_payload(world, version=1, payload=b"\x83P broken")

    async def process():
        with pytest.raises(PayloadError, match="not a payload"):
            await await_signal()
        return await await_signal()

    for _ in range(2):
        _, result = await world.execute(process)
        assert result == 2
        await world.bench.rescue()
    assert await world.kinds() == ["delivered", "delivered", "consumed", "consumed"]


async def test_l7_an_erased_payload_says_so(world):
    await world.bench.signaller.send(world.job_id, 1)
    _break_payload(world, version=1, payload=None)

    async def process():
        await await_signal()

    _, result = await world.execute(process)
    assert isinstance(result, PayloadError)
    assert "was erased" in str(result)


def _break_payload(world, *, version, payload):
    from dataclasses import replace

    stream = world.bench.store._tables.streams[world.job_id]
    event = stream[version - 1].event
    assert isinstance(event, Delivered)
    stream[version - 1] = replace(stream[version - 1], event=replace(event, payload=payload))


async def test_l8_a_stream_of_a_newer_library_is_tried_again_later(world, caplog):
    async def take(_command):
        raise NewerEventError(job_id=1, version=1, kind="awaited", schema_version=2)

    world.room.take = take

    async def process():
        await await_signal()

    with caplog.at_level(logging.WARNING):
        execution, _ = await world.execute(process)
    assert execution.ending == TryLater(seconds=60)
    assert "upgrade signal-ledger" in caplog.text


async def test_a_store_that_cannot_be_reached_puts_the_job_off_and_does_not_fail_it(world, caplog):
    async def take(_command):
        raise StoreUnavailableError("the connection was lost")

    world.room.take = take

    async def process():
        await await_signal()

    with caplog.at_level(logging.WARNING):
        execution, _ = await world.execute(process)
    assert execution.ending == TryLater(seconds=1)
    assert "tried again in 1 s: the connection was lost" in caplog.text


async def test_w9_an_await_out_of_turn_is_an_error(world):
    await world.bench.signaller.send(world.job_id, 1)

    async def process():
        await await_signal()
        execution = current_execution()
        execution._ended[""] = 5
        await await_signal()

    _, result = await world.execute(process)
    assert isinstance(result, RuntimeError)
    assert "expected await 2 of its channel next" in str(result)


async def test_signal_inside_a_job_uses_its_engine(world):
    other = await world.bench.insert()

    async def process():
        return await signal(other, "from a job")

    _, receipt = await world.execute(process)
    assert receipt.outcome == "buffered"


async def test_an_exit_of_the_interpreter_is_never_swallowed(world):
    async def process():
        try:
            await await_signal(wait_timeout=0)
        except EndExecution:
            raise SystemExit(3) from None

    with pytest.raises(SystemExit):
        await world.execute(process)
