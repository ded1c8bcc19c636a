"""The server's own clock steps by an hour, forth and back, with libfaketime, under load (W6, W7, D1)."""

import contextlib
import datetime as dt
import os
import tempfile
from pathlib import Path

import pytest
from oban import Record, worker
from oban._recorded import decode_recorded

from signal_ledger import SignalTimeout, attach, await_signal, open_ledger
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.eventually import eventually
from tests.faults.clocks import check_history, library, needs_faketime
from tests.postgres.conftest import install
from tests.postgres.engine.conftest import Node, an_oban, query
from tests.postgres.faults.load import Load
from tests.postgres.faults.workers import STOP, collectors, have_consumed_all
from tests.postgres.version import wanted_version

pytestmark = needs_faketime

HOUR_S = 3600


@worker(max_attempts=1)
class Punctual:
    """Awaits with a deadline, again and again, until it is told to stop; some time out, and some get a signal."""

    async def process(self, job):
        got = []
        while (outcome := await self.once(job)) != STOP:
            got.append(outcome)
        return Record(got)

    async def once(self, job):
        try:
            return await await_signal(
                wait_for=job.args["wait_for"], wait_timeout=job.args["window"], channel="punctual"
            )
        except SignalTimeout:
            return "timeout"


@contextlib.contextmanager
def faked(variables):
    """Variables for programs that are started meanwhile, not for this one, which has begun already."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class ServerClock:
    """What the server takes for the time: this machine's, and so much more."""

    def __init__(self, path):
        self._path = path
        self.offset_s = 0
        self.step(0)

    def step(self, by_s):
        """Step it."""
        self.offset_s += by_s
        # At once: a server that reads an empty file would take it for no offset.
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{self.offset_s:+d}\n")
        beside.chmod(0o644)
        beside.replace(self._path)

    def is_so(self, url):
        """Say whether the server tells that time."""
        [[now]] = query(url, "SELECT clock_timestamp()")
        return abs(now.timestamp() - dt.datetime.now(dt.UTC).timestamp() - self.offset_s) < HOUR_S / 4


@pytest.fixture
def clocked():
    """A database on a server of its own, and the clock of that."""
    with tempfile.TemporaryDirectory(prefix="tmp-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server may run as somebody else
        clock = ServerClock(folder / "clock")
        variables = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        with contextlib.ExitStack() as stack:
            with faked(variables):
                cluster = stack.enter_context(scratch_cluster(wanted_version(), durable=False))
            yield cluster.create_database("clocked"), clock


STEPS = {"forth and back": [HOUR_S, -HOUR_S], "back and forth": [-HOUR_S, HOUR_S]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
async def test_w6_w7_a_clock_of_the_server_that_steps_turns_no_stream_back_and_moves_no_deadline(
    clocked, steps, record_property
):
    url, clock = clocked
    await install(url, testing=False)
    seen = Deadlines()
    async with (
        an_oban(url, {"default": 40}) as oban,
        attach(oban) as engine,
        open_ledger(url) as ledger,
    ):
        node = Node(url, oban, engine)
        jobs = await collectors(node)
        punctual = await engine.enqueue_many(
            Punctual.new({"wait_for": wait_for, "window": window})
            for wait_for in (0.3, 0.8, 300)
            for window in (0, 0.9)
        )
        short, long = punctual[:4], punctual[4:]
        for job in short:
            await eventually(lambda job=job: has_timed_out(ledger, job, 1))
        for job in long:
            # Its deadline begins with its first sleep.
            await node.until_status(job, "snoozed")
        load = Load(ledger, [job.id for job in jobs], timeout=30)
        stepped = 0
        async with load.running(8):
            await eventually(load.has_sent(100))
            for step in steps:
                for job in punctual:
                    seen.note(await ledger.history(job))
                before = query(url, "SELECT clock_timestamp()")[0][0]
                clock.step(step)
                after = query(url, "SELECT clock_timestamp()")[0][0]
                stepped += abs((after - before).total_seconds() - step) < HOUR_S / 4
                assert clock.is_so(url)
                await eventually(load.has_sent(100))
                if step > 0:
                    # Forth: what had five minutes left is over. Back again to the true time: time goes on as before.
                    for job in long if clock.offset_s else short:
                        count = 1 if clock.offset_s else await timeouts_of(ledger, job) + 1
                        await eventually(lambda job=job, count=count: has_timed_out(ledger, job, count))
                for number, job in enumerate(punctual):
                    await engine.signal(job, number, channel="punctual")
                await eventually(load.has_sent(100))
        figures = await load.figures(ledger, record_property, happened=stepped)
        assert figures.unknown == 0
        assert stepped == len(steps)
        await engine.signal(punctual, STOP, channel="punctual")
        timeouts = late = 0
        for job in punctual:
            outcomes = decode_recorded((await node.until(job, "completed")).meta["return"])
            history = await ledger.history(job)
            seen.note(history)
            of_log = check_outcomes(history, outcomes)
            timeouts += len(of_log)
            late += sum(event.deadline_at.timestamp() + HOUR_S / 2 < event.recorded_at.timestamp() for event in of_log)
        for job in jobs:
            check_history(await ledger.history(job))
        await have_consumed_all(node, jobs)
        report = await ledger.verify()
        assert report.ok, str(report)
    record_property("timeouts", timeouts)
    record_property("by a step of the clock", late)
    record_property("deadlines, none moved", len(seen.deadlines))
    # A step forth passes the deadlines that are there; one that only takes back a step passes none of a stream.
    assert (late > 0) == (steps[0] > 0)
    assert timeouts > late


def check_outcomes(history, outcomes):
    """Check that each signal was had once, in its order, with the log's timeouts between them; return those."""
    check_history(history)
    signals = [event.payload for event in history if event.kind == "delivered"]
    assert [outcome for outcome in outcomes if outcome != "timeout"] == signals[:-1]
    timeouts = [event for event in history if event.kind == "timed_out"]
    assert outcomes.count("timeout") == len(timeouts)
    return timeouts


class Deadlines:
    """The deadlines of waits as each look shows them."""

    def __init__(self):
        self.deadlines = {}

    def note(self, history):
        for event in history:
            if event.deadline_at is not None:
                wait = (event.job_id, event.run, event.channel, event.ordinal)
                assert self.deadlines.setdefault(wait, event.deadline_at) == event.deadline_at


async def timeouts_of(ledger, job):
    return [event.kind for event in await ledger.history(job)].count("timed_out")


async def has_timed_out(ledger, job, times):
    return await timeouts_of(ledger, job) >= times
