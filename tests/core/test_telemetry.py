"""Who listens to events, and what they are told."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

import signal_ledger
from signal_ledger import StaleExecution, await_signal, telemetry
from signal_ledger.commands import Take
from signal_ledger.decisions import GotSignal
from signal_ledger.delivery import Sender
from signal_ledger.embedded.operations import ForgetTraces
from signal_ledger.ports import StoreUnavailableError
from signal_ledger.telemetry.logger import to_line
from signal_ledger.telemetry.registry import observed
from signal_ledger.telemetry.tracing import current_traceparent, follow_traces, forget_traces
from signal_ledger.upcast import NewerEventError
from tests.core.test_execution import AnEngine, World

RELAYED = "signal_ledger.relayed"
REPAIRED = "signal_ledger.repaired"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _nobody_listens():
    yield
    for handler_id in ("one", "other", telemetry.logger.ID):
        telemetry.detach(handler_id)
    assert not observed


@pytest.fixture
def heard():
    """All that is told, to somebody who listens to everything."""
    heard = []
    telemetry.attach("one", telemetry.EVENTS, lambda name, told: heard.append((name, told)))
    return heard


@pytest.fixture
async def world():
    world = World()
    await world.job()
    return world


class TestListening:
    def test_a_handler_hears_what_it_is_attached_to_and_nothing_else(self):
        heard = []
        telemetry.attach("one", [RELAYED], lambda *told: heard.append(told))
        telemetry.execute(RELAYED, {"count": 3})
        telemetry.execute(REPAIRED, {"count": 1})
        telemetry.detach("one")
        telemetry.execute(RELAYED, {"count": 4})
        assert heard == [(RELAYED, {"count": 3})]

    def test_handlers_are_called_in_their_order_in_the_thread_that_emits(self):
        heard = []
        for handler_id in ("one", "other"):
            telemetry.attach(
                handler_id, [RELAYED], lambda *_told, me=handler_id: heard.append((me, threading.get_ident()))
            )
        telemetry.execute(RELAYED, {})
        assert heard == [("one", threading.get_ident()), ("other", threading.get_ident())]

    def test_each_handler_is_given_a_copy_of_its_own(self):
        heard = []
        telemetry.attach("one", [RELAYED], lambda _name, told: told.clear())
        telemetry.attach("other", [RELAYED], lambda _name, told: heard.append(told))
        told = {"count": 3}
        telemetry.execute(RELAYED, told)
        assert heard == [{"count": 3}]
        assert told == {"count": 3}

    def test_events_that_there_are_not_are_refused_with_those_that_there_are(self):
        with pytest.raises(ValueError, match=r"expected some of signal_ledger\.signal\.start, .*; got 'consumed', 'x'"):
            telemetry.attach("one", ["consumed", RELAYED, "x"], print)
        assert not observed
        with pytest.raises(TypeError, match="events: expected several names of events, got a str"):
            telemetry.attach("one", RELAYED, print)

    def test_an_id_is_given_once(self):
        telemetry.attach("one", [RELAYED], print)
        with pytest.raises(ValueError, match="there is a telemetry handler 'one' already; detach it first"):
            telemetry.attach("one", [REPAIRED], print)
        telemetry.detach("one")
        telemetry.attach("one", [REPAIRED], print)
        assert observed == {REPAIRED}

    @pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError("mine")])
    def test_what_a_handler_raises_is_logged_and_reaches_nobody(self, error, caplog):
        heard = []

        def fail(_name, _told):
            raise error

        telemetry.attach("one", [RELAYED], fail)
        telemetry.attach("other", [RELAYED], lambda *told: heard.append(told))
        telemetry.execute(RELAYED, {"source": "zoe"})
        assert heard == [(RELAYED, {"source": "zoe"})]
        [record] = caplog.records
        assert record.getMessage() == "telemetry: the handler 'one' failed at signal_ledger.relayed"
        assert "zoe" not in caplog.text

    def test_an_interrupt_is_no_fault_of_a_handler(self):
        def interrupt(_name, _told):
            raise KeyboardInterrupt

        telemetry.attach("one", [RELAYED], interrupt)
        with pytest.raises(KeyboardInterrupt):
            telemetry.execute(RELAYED, {})

    def test_who_emits_knows_what_somebody_listens_to(self):
        assert not observed
        telemetry.attach("one", ["signal_ledger.execution.stop", RELAYED], print)
        assert observed == {"signal_ledger.execution.stop", "signal_ledger.execution", RELAYED}
        telemetry.attach("other", ["signal_ledger.execution.start"], print)
        telemetry.detach("one")
        assert observed == {"signal_ledger.execution.start", "signal_ledger.execution"}


class TestSpans:
    def test_a_span_tells_when_it_begins_and_how_it_ends(self, heard):
        with telemetry.span("signal_ledger.signal", {"targets": 2}) as span:
            span.add({"outcomes": {"woken": 2}})
        (start, began), (stop, ended) = heard
        assert (start, stop) == ("signal_ledger.signal.start", "signal_ledger.signal.stop")
        assert set(began) == {"system_time", "targets", "span_context"}
        assert set(ended) == {"system_time", "duration", "targets", "outcomes", "span_context"}
        assert ended["duration"] == ended["system_time"] - began["system_time"] >= 0
        assert began["span_context"] is ended["span_context"]

    @pytest.mark.parametrize("error", [ValueError("the payload is hunter2"), asyncio.CancelledError()])
    def test_a_span_that_fails_tells_the_errors_type_and_not_its_message(self, heard, error):
        with pytest.raises(type(error)), telemetry.span("signal_ledger.signal", {"targets": 1}):
            raise error
        [(_, began), (name, ended)] = heard
        assert name == "signal_ledger.signal.exception"
        assert ended["error_type"] == type(error).__name__
        assert set(ended) == {"system_time", "duration", "targets", "error_type", "span_context"}
        assert "hunter2" not in repr(heard)
        assert began["span_context"] is ended["span_context"]

    def test_two_spans_are_told_apart(self, heard):
        for _ in range(2):
            with telemetry.span("signal_ledger.signal", {}):
                pass
        assert len({told["span_context"] for _, told in heard}) == 2


class TestLogger:
    def test_events_are_lines_of_json_with_durations_in_milliseconds(self, caplog):
        caplog.set_level(logging.INFO, logger="signal_ledger.telemetry")
        telemetry.logger.attach()
        deadline_at = datetime(2026, 1, 1, tzinfo=UTC)
        telemetry.execute(
            "signal_ledger.timed_out",
            {
                "job_id": 7,
                "channel": "a\nb",
                "overdue": 1_234_567,
                "deadline_at": deadline_at,
                "span_context": object(),
            },
        )
        [record] = caplog.records
        assert (record.name, record.levelno) == ("signal_ledger.telemetry", logging.INFO)
        assert json.loads(record.getMessage()) == {
            "event": "signal_ledger.timed_out",
            "job_id": 7,
            "channel": "a\nb",
            "overdue": 1.23,
            "deadline_at": "2026-01-01T00:00:00+00:00",
        }
        assert "\n" not in record.getMessage()

    @pytest.mark.parametrize(
        ("name", "level"),
        [
            ("signal_ledger.signal.exception", logging.ERROR),
            ("signal_ledger.execution.exception", logging.ERROR),
            ("signal_ledger.signal.retry", logging.WARNING),
            ("signal_ledger.batch.retry", logging.WARNING),
            (REPAIRED, logging.WARNING),
            (RELAYED, logging.DEBUG),
        ],
    )
    def test_what_went_wrong_is_louder(self, caplog, name, level):
        logger = logging.getLogger("mine")
        caplog.set_level(logging.DEBUG, logger="mine")
        telemetry.logger.attach(level=logging.DEBUG, logger=logger)
        telemetry.execute(name, {})
        assert [(record.name, record.levelno) for record in caplog.records] == [("mine", level)]

    def test_beginnings_are_logged_when_they_are_asked_for(self, caplog):
        caplog.set_level(logging.INFO, logger="signal_ledger.telemetry")
        telemetry.logger.attach()
        telemetry.execute("signal_ledger.signal.start", {})
        assert caplog.records == []
        telemetry.logger.detach()
        telemetry.logger.attach(events=["signal_ledger.signal.start"])
        telemetry.execute("signal_ledger.signal.start", {})
        assert len(caplog.records) == 1

    def test_nothing_is_written_that_nobody_logs(self, caplog):
        caplog.set_level(logging.WARNING, logger="signal_ledger.telemetry")
        telemetry.logger.attach()
        # It would raise if it were written.
        telemetry.execute("signal_ledger.signal.stop", {"duration": "no number"})
        assert caplog.records == []

    def test_what_json_does_not_know_is_written_as_text(self):
        assert json.loads(to_line(RELAYED, {"count": 3, "wake_latency": None, "x": 1j})) == {
            "event": RELAYED, "count": 3, "wake_latency": None, "x": "1j",
        }  # fmt: skip


class TestFacade:
    def test_it_is_there_without_an_import_of_its_own(self):
        script = "import signal_ledger; print(len(signal_ledger.telemetry.EVENTS))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == f"{len(telemetry.EVENTS)}\n"

    def test_every_public_name_is_there(self):
        for name in telemetry.__all__:
            assert getattr(telemetry, name) is not None
        with pytest.raises(AttributeError, match=r"module 'signal_ledger.telemetry' has no attribute 'nonsense'"):
            _ = telemetry.nonsense
        assert signal_ledger.telemetry is telemetry

    def test_without_opentelemetry_it_says_what_to_install(self):
        script = (
            "import sys; sys.modules['opentelemetry'] = None\n"
            "import signal_ledger.telemetry\n"
            "try:\n    from signal_ledger.telemetry import opentelemetry\n"
            "except ImportError as error:\n    print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == (
            "signal_ledger.telemetry.opentelemetry: expected the package opentelemetry-api, it is not installed; "
            "pip install 'signal-ledger[opentelemetry]'\n"
        )


class TestExecutions:
    @pytest.mark.parametrize(
        ("refusal", "ended"),
        [
            (None, "snoozed"),
            (NewerEventError(job_id=1, version=1, kind="x", schema_version=9), "later"),
            (StoreUnavailableError("no answer"), "later"),
        ],
    )
    async def test_an_execution_tells_how_it_ended(self, world, heard, refusal, ended):
        async def take(take):
            if refusal is not None:
                raise refusal
            return await world.bench.store.take(take)

        world.room.take = take
        await world.execute(lambda: await_signal(wait_timeout=0))
        (_, began), (name, told) = heard
        assert name == "signal_ledger.execution.stop"
        assert (told["job_id"], told["execution"], told["ended"]) == (world.job_id, 1, ended)
        assert "ended" not in began

    async def test_an_execution_without_an_ending_returned(self, world, heard):
        async def process():
            return 7

        await world.execute(process)
        assert [told.get("ended") for _, told in heard] == [None, "returned"]

    async def test_a_superseded_or_cancelled_execution_says_so(self, world, heard):
        async def process():
            await world.bench.rescue()
            await world.bench.fetch(world.job_id)
            with pytest.raises(StaleExecution):
                await await_signal(wait_timeout=0)

        await world.execute(process)

        async def cancelled():
            await world.bench.cancel(world.job_id)
            await await_signal(wait_timeout=0)

        await world.bench.rescue()
        await world.execute(cancelled)
        assert [told["ended"] for name, told in heard if name.endswith("stop")] == ["superseded", "cancelled"]

    async def test_an_execution_that_fails_tells_the_errors_type(self, world, heard):
        async def process():
            raise ValueError("hunter2")

        await world.execute(process)
        name, told = heard[-1]
        assert (name, told["error_type"]) == ("signal_ledger.execution.exception", "ValueError")
        assert "hunter2" not in repr(heard)

    async def test_an_outcome_without_listeners_to_executions_belongs_to_no_span(self, world):
        heard = []
        telemetry.attach("one", ["signal_ledger.consumed"], lambda _name, told: heard.append(told))
        await world.bench.signaller.send(world.job_id, "yes")
        await world.execute(lambda: await_signal(wait_timeout=0))
        [told] = heard
        assert told["span_context"] is None
        assert (told["channel"], told["ordinal"], told["wake_latency"]) == (None, 1, 0)

    async def test_a_live_wait_is_told_once_however_often_it_looks(self, world, heard):
        async def look_again(_timeout_s):
            if len(world.room.hints) == 4:
                await world.bench.signaller.send(world.job_id, "yes", channel="c")

        world.room.on_hint = look_again
        await world.execute(lambda: await_signal(wait_for=60, wait_timeout=60, channel="c"))
        assert len(world.room.hints) == 4
        [told] = [told for name, told in heard if name == "signal_ledger.awaited"]
        assert (told["channel"], told["deadline_in"]) == ("c", 60_000_000_000)

    async def test_a_replay_tells_no_outcome(self, world, heard):
        await world.bench.signaller.send(world.job_id, "yes")

        async def process():
            await await_signal(wait_timeout=0)
            await await_signal(wait_timeout=0, channel="second")

        await world.execute(process)
        await world.bench.retry(world.job_id)
        _, result = await world.execute(process)
        assert result is None
        assert [told["ordinal"] for name, told in heard if name == "signal_ledger.consumed"] == [1]


class Stubborn:
    """A store that cannot be reached twice."""

    def __init__(self, inner):
        self._inner = inner
        self._troubles = [StoreUnavailableError("no answer"), StoreUnavailableError("again")]
        self._troubles[1].__cause__ = ConnectionResetError("by peer")

    async def deliver(self, call, *, timeout_s):
        if self._troubles:
            raise self._troubles.pop(0)
        return await self._inner.deliver(call, timeout_s=timeout_s)


class TestSignals:
    async def test_each_new_try_is_told_with_what_was_in_the_way(self, world, heard):
        engine = AnEngine("test", Sender(store=Stubborn(world.bench.store), new_id=world.bench.signaller._new_id))
        await engine.signal(world.job_id, "yes")
        retries = [told for name, told in heard if name == "signal_ledger.signal.retry"]
        assert retries == [
            {"tries": 1, "delay": 50_000_000, "error_type": "StoreUnavailableError"},
            {"tries": 2, "delay": 100_000_000, "error_type": "ConnectionResetError"},
        ]

    async def test_who_listens_to_deliveries_alone_hears_of_them(self, world):
        heard = []
        telemetry.attach("one", ["signal_ledger.delivered"], lambda *told: heard.append(told))
        receipt = await world.engine.signal(world.job_id, "yes", channel="c", source="ada")
        assert heard == [
            (
                "signal_ledger.delivered",
                {
                    "job_id": world.job_id,
                    "signal_id": receipt.signal_id,
                    "channel": "c",
                    "source": "ada",
                    "outcome": "buffered",
                    "version": 1,
                    "reason": None,
                },
            )
        ]

    async def test_who_listens_to_calls_alone_hears_of_them(self, world):
        heard = []
        telemetry.attach("one", ["signal_ledger.signal.stop"], lambda _name, told: heard.append(told))
        assert await world.engine.signal([], "yes") == []
        assert [(told["targets"], told["outcomes"]) for told in heard] == [(0, {})]

    @pytest.mark.parametrize("arguments", [{"target": "x"}, {"channel": 7}, {"source": b"x"}])
    async def test_arguments_that_are_none_are_no_call(self, world, heard, arguments):
        with pytest.raises(TypeError):
            await world.engine.signal(**{"target": world.job_id, "payload": "yes", **arguments})
        assert heard == []


async def taken(world, *, wants_trace=True):
    token = await world.bench.fetch(world.job_id)
    take = Take(
        job_id=world.job_id, execution=token, channel="", ordinal=1, wait_for=None, in_place=False, window=False,
        wants_trace=wants_trace,
    )  # fmt: skip
    reply = await world.bench.store.take(take)
    assert isinstance(reply, GotSignal)
    return reply.traceparent


class TestTraces:
    @pytest.fixture(autouse=True)
    def _follow(self):
        follow_traces(lambda: TRACEPARENT)
        yield
        forget_traces()

    async def test_the_trace_of_who_signals_comes_to_who_waits(self, world):
        await world.engine.signal(world.job_id, "yes")
        assert await taken(world) == TRACEPARENT
        assert not world.bench.store._tables.traces

    async def test_who_does_not_ask_for_it_leaves_it(self, world):
        await world.engine.signal(world.job_id, "yes")
        assert await taken(world, wants_trace=False) is None
        assert len(world.bench.store._tables.traces) == 1

    async def test_what_is_stored_with_a_callers_connection_is_traced_when_it_is_committed(self, world):
        async with world.bench.store.begin() as conn:
            await world.engine.signal(world.job_id, "yes", conn=conn)
            assert not world.bench.store._tables.traces
        await world.bench.relay()
        assert await taken(world) == TRACEPARENT

    async def test_a_signal_that_nobody_traces_has_none(self, world):
        follow_traces(lambda: None)
        await world.engine.signal(world.job_id, "yes")
        assert await taken(world) is None

    async def test_what_is_not_stored_is_not_traced(self, world):
        await world.engine.signal([world.job_id, 404], "yes", key="k")
        await world.engine.signal(world.job_id, "yes", key="k")
        assert len(world.bench.store._tables.traces) == 1

    async def test_old_traces_are_forgotten(self, world):
        other = await world.bench.insert()
        await world.engine.signal([world.job_id, other], "yes")
        world.clock.advance(10)
        await world.engine.signal(world.job_id, "yes")
        before = world.clock()
        forgotten = [await world.bench.store.transact(ForgetTraces(before=before, limit=1)) for _ in range(3)]
        assert forgotten == [1, 1, 0]
        assert len(world.bench.store._tables.traces) == 1

    @pytest.mark.parametrize("traceparent", ["", "00-short", TRACEPARENT + "-"])
    async def test_what_is_no_trace_is_not_kept(self, world, traceparent):
        follow_traces(lambda: traceparent)
        await world.engine.signal(world.job_id, "yes")
        assert await taken(world) is None

    async def test_a_fault_in_reading_the_trace_harms_no_signal(self, world, caplog):
        def fail():
            raise ValueError("no context")

        follow_traces(fail)
        receipt = await world.engine.signal(world.job_id, "yes")
        assert receipt.outcome == "buffered"
        assert "the trace could not be read" in caplog.text

    def test_nobody_follows_them_any_more(self):
        forget_traces()
        assert current_traceparent() is None
