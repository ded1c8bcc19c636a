"""Traces that go from who signals to who waits, on a real database and with the real SDK.

`TracingContract` is bound to each engine in the folder of its tests.
"""

import asyncio
import json

import pytest
from oban import worker
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from signal_ledger import KeyConflict, await_signal, open_ledger, telemetry
from signal_ledger.telemetry import opentelemetry
from signal_ledger.telemetry.registry import observed
from tests.eventually import eventually
from tests.processes.children import child
from tests.processes.traced import Traced, told

SECRET = "hunter2-of-the-payload"


@worker(max_attempts=3)
class Spanning:
    """Makes a span of its own when it has got its signal."""

    async def process(self, job):
        for channel in job.args.get("channels", [None]):
            await await_signal(
                wait_for=job.args.get("wait_for"), wait_timeout=job.args.get("window", 0), channel=channel
            )
            with trace.get_tracer("user", tracer_provider=PROVIDER[0]).start_as_current_span("charge the card"):
                await asyncio.sleep(0)
        if job.args.get("fails"):
            raise ValueError(SECRET)


PROVIDER = []


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter):
        self._exporter = exporter

    def __call__(self, name=None):
        spans = [told(span) for span in self._exporter.get_finished_spans()]
        return [span for span in spans if name in (None, span["name"])]

    async def until(self, name, count):
        await eventually(lambda: len(self(name)) >= count, what=f"{count} spans {name}")
        return self(name)


NAME = "process tests.tracing.Spanning"


class TracingContract:
    """Needs fixtures: `it`, `caller`; and the method `traces`, which returns the rows of the side table."""

    @pytest.fixture(autouse=True)
    def _nobody_listens(self):
        yield
        opentelemetry.detach()
        telemetry.detach("failing")
        assert not observed

    @pytest.fixture
    def sampler(self):
        return None

    @pytest.fixture
    def provider(self, sampler):
        provider = TracerProvider(sampler=sampler)
        PROVIDER[:] = [provider]
        yield provider
        provider.shutdown()

    @pytest.fixture
    def spans(self, provider):
        exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        opentelemetry.attach(provider)
        return Spans(exporter)

    @pytest.mark.parametrize(("window", "status"), [(0, "snoozed"), (60, "live")])
    async def test_the_resumed_job_is_linked_to_who_has_signalled(self, it, provider, spans, window, status):
        job = await Spanning.enqueue({"window": window})
        await it.until_status(job, status)
        with provider.get_tracer("user").start_as_current_span("a request") as request:
            receipt = await it.engine.signal(job, "yes", source="ada")
            assert trace.get_current_span() is request
        await it.until(job, "completed")
        *_, process = await spans.until(NAME, 1 if window else 2)
        [signalled], [charged], [asked] = spans("signal"), spans("charge the card"), spans("a request")
        assert (signalled["kind"], process["kind"]) == ("PRODUCER", "CONSUMER")
        assert (signalled["parent"], process["parent"], charged["parent"]) == (asked["ids"], None, process["ids"])
        assert process["links"] == [[*signalled["ids"], True]]
        assert signalled["ids"][0] != process["ids"][0]
        [[name, told]] = process["events"]
        assert name == "signal_ledger.consumed"
        assert (told["signal_ledger.signal_id"], told["signal_ledger.ordinal"]) == (receipt.signal_id, 1)
        assert told["signal_ledger.wake_latency_ms"] >= 0
        outcome = "live" if window else "woken"
        assert {
            "signal_ledger.targets": 1, "signal_ledger.source": "ada", "signal_ledger.has_key": False,
            "signal_ledger.stored": False, f"signal_ledger.outcomes.{outcome}": 1,
        } == signalled["attributes"]  # fmt: skip
        attributes = process["attributes"]
        assert attributes["signal_ledger.job_id"] == job.id
        assert attributes["signal_ledger.ended"] == "returned"
        assert self.traces(it) == []

    async def test_an_execution_belongs_to_no_span_in_which_its_engine_was_opened(self, start, provider, spans):
        with provider.get_tracer("user").start_as_current_span("the start of the application"):
            it = await start(name="in a span")
            job = await it.engine.enqueue(Spanning.new({"channels": []}))
        await it.until(job, "completed")
        [process] = await spans.until(NAME, 1)
        assert process["parent"] is None

    async def test_a_replayed_await_adds_no_second_link(self, it, spans):
        job = await Spanning.enqueue({"channels": ["a", "b"]})
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, 1, channel="a")
        await spans.until(NAME, 2)
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, 2, channel="b")
        await it.until(job, "completed")
        processes = await spans.until(NAME, 3)
        assert [process["links"] for process in processes] == [
            [],
            *[[[*signalled["ids"], True]] for signalled in spans("signal")],
        ]
        assert [len(process["events"]) for process in processes] == [0, 1, 1]

    @pytest.mark.parametrize("sampler", [ALWAYS_OFF])
    async def test_what_is_not_sampled_is_kept_nowhere(self, it, spans):
        job = await Spanning.enqueue()
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, "yes")
        await it.engine.signal(job, "again")
        await it.until(job, "completed")
        assert self.traces(it) == []
        assert spans() == []

    async def test_without_the_bridge_nothing_is_kept(self, it):
        job = await Spanning.enqueue({"channels": ["another"]})
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, "yes")
        await it.engine.signal([job], "yes")
        assert self.traces(it) == []

    async def test_without_the_bridge_nothing_even_looks_at_the_table(self, it, caller):
        async with self.without_the_table(it):
            jobs = [await Spanning.enqueue({"channels": ["a", "b"]}) for _ in range(2)]
            for job in jobs:
                await it.until_status(job, "snoozed")
            await it.engine.signal(jobs, 1, channel="a")
            await it.engine.signal(jobs[0], 2, channel="b")
            await it.engine.signal(jobs[1], 2, channel="b", conn=caller.conn)
            await caller.commit()
            for job in jobs:
                await it.until(job, "completed")

    async def test_a_list_and_a_callers_transaction_are_linked_too(self, it, spans, caller):
        jobs = [await Spanning.enqueue({"channels": ["a", "b"]}) for _ in range(2)]
        for job in jobs:
            await it.until_status(job, "snoozed")
        await it.engine.signal(jobs, 1, channel="a")
        await spans.until(NAME, 4)
        await it.engine.signal(jobs, 2, channel="b", conn=caller.conn)
        assert self.traces(it) == []
        await caller.commit()
        for job in jobs:
            await it.until(job, "completed")
        processes = await spans.until(NAME, 6)
        of_list, stored = spans("signal")
        assert [stored["attributes"][f"signal_ledger.{name}"] for name in ("stored", "outcomes.stored")] == [True, 2]
        links = sorted(link for process in processes for link in process["links"])
        assert links == sorted([[*of_list["ids"], True]] * 2 + [[*stored["ids"], True]] * 2)

    async def test_what_a_caller_rolls_back_leaves_no_trace(self, it, spans, caller):
        job = await Spanning.enqueue()
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, "yes", conn=caller.conn)
        await caller.rollback()
        assert len(spans("signal")) == 1
        assert self.traces(it) == []

    async def test_what_fails_is_marked_and_its_message_is_not_told(self, it, spans):
        job = await Spanning.enqueue({"fails": True})
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, SECRET, key=f"key {SECRET}")
        with pytest.raises(KeyConflict):
            await it.engine.signal(job, f"no {SECRET}", key=f"key {SECRET}")
        process = (await spans.until(NAME, 2))[1]
        assert (process["status"], process["attributes"]["error.type"]) == ("ERROR", "ValueError")
        assert [(span["status"], span["attributes"].get("error.type")) for span in spans("signal")] == [
            ("UNSET", None),
            ("ERROR", "KeyConflict"),
        ]
        assert SECRET not in repr(spans())

    async def test_a_time_out_is_an_event_of_the_execution_and_links_to_nobody(self, it, spans):
        job = await Spanning.enqueue({"wait_for": 0.01, "window": 10})
        await it.until(job, "retryable")
        [process] = await spans.until(NAME, 1)
        [[name, told]] = process["events"]
        assert (name, told["signal_ledger.ordinal"], process["links"]) == ("signal_ledger.timed_out", 1, [])
        assert told["signal_ledger.overdue_ms"] > 0
        assert process["attributes"]["error.type"] == "SignalTimeout"

    async def test_an_exporter_that_fails_harms_nothing(self, it, provider, caplog):
        class Failing(SpanProcessor):
            def on_start(self, span, parent_context=None):
                if span.name == "signal":
                    raise ZeroDivisionError("on start")

            def on_end(self, span):
                raise ZeroDivisionError("on end")

        provider.add_span_processor(Failing())
        opentelemetry.attach(provider)
        before = trace.get_current_span()
        job = await Spanning.enqueue({"channels": ["a", "b"]})
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, 1, channel="a")
        await it.engine.signal(job, 2, channel="b")
        # The span that the job makes by itself fails it, and no span of the bridge does.
        found = await it.until(job, "retryable")
        assert "charge the card" in str(found.errors)
        assert trace.get_current_span() is before
        assert "the handler 'signal-ledger-opentelemetry' failed" in caplog.text

    async def test_spans_end_when_the_bridge_is_taken_away(self, it, spans):
        job = await Spanning.enqueue({"window": 60})
        await it.until_status(job, "live")
        opentelemetry.detach()
        assert [span["name"] for span in spans()] == [NAME]
        await it.engine.signal(job, "yes")
        await it.until(job, "completed")
        assert spans("signal") == []

    async def test_it_is_attached_once(self, provider):
        opentelemetry.attach(provider)
        with pytest.raises(ValueError, match="there is a telemetry handler 'signal-ledger-opentelemetry' already"):
            opentelemetry.attach(provider)
        assert "signal_ledger.traces" in observed

    async def test_traces_of_signals_that_nobody_consumes_are_forgotten_in_time(self, it, spans):
        job = await Spanning.enqueue({"channels": ["another"]})
        await it.until_status(job, "snoozed")
        for _ in range(3):
            await it.engine.signal(job, "yes")
        assert len(self.traces(it)) == len(spans("signal")) == 3
        await self.let_pass_a_week(it, but_for=1)
        await self.upkeep(it)
        assert len(self.traces(it)) == 1

    async def test_the_log_knows_nothing_of_traces(self, it, spans):
        job = await Spanning.enqueue()
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, "yes")
        await it.until(job, "completed")
        ids = spans("signal")[0]["ids"]
        assert not any(number in repr(event) for event in await it.engine.ledger.history(job) for number in ids)
        assert (await it.engine.ledger.verify()).ok

    async def test_a_job_is_linked_to_another_process_that_has_signalled(self, start):
        quiet = await start({})
        jobs = [await Traced.enqueue({"signals": 2}) for _ in range(2)]
        async with child("traced", "works", quiet.url) as working:
            for job in jobs:
                await quiet.until_status(job, "snoozed")
            async with child("traced", "signals", quiet.url, *[job.id for job in jobs]) as signalling:
                signalled = json.loads(await signalling.stdout.readline())
            for job in jobs:
                await quiet.until(job, "completed")
            working.stdin.close()
            worked = json.loads(await working.stdout.readline())
        assert [span["name"] for span in signalled] == ["signal", "signal", "signal", "a request"]
        of_list, *alone, request = signalled
        assert all(span["parent"] == request["ids"] for span in signalled[:-1])
        for job, own in zip(jobs, alone, strict=True):
            spans = [span for span in worked if span["attributes"]["signal_ledger.job_id"] == job.id]
            assert {span["name"] for span in spans} == {"process tests.processes.traced.Traced"}
            links = [link for span in spans for link in span["links"]]
            assert links == [[*of_list["ids"], True], [*own["ids"], True]]
        assert self.traces(quiet) == []

    async def test_a_ledger_without_an_engine_leaves_a_trace_too(self, it, spans):
        job = await Spanning.enqueue()
        await it.until_status(job, "snoozed")
        async with open_ledger(it.url) as ledger:
            await ledger.signal(job, "yes")
        await it.until(job, "completed")
        process = (await spans.until(NAME, 2))[1]
        assert process["links"] == [[*spans("signal")[0]["ids"], True]]

    # What each database does in its own way.

    def traces(self, it):
        """The rows of the side table."""
        raise NotImplementedError

    def without_the_table(self, it):
        """Let the side table be gone as long as `with` lasts."""
        raise NotImplementedError

    async def let_pass_a_week(self, it, *, but_for):
        """Make all but so many of the rows eight days old."""
        raise NotImplementedError

    async def upkeep(self, it):
        """Do what the engine does now and then."""
        raise NotImplementedError
