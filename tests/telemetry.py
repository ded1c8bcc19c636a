"""What is told of real jobs on a real database: every engine tells the same.

`TelemetryContract` is bound to each engine in the folder of its tests.
"""

import asyncio
import json
import logging
import threading
import traceback

import pytest
from oban import Record, worker

from signal_ledger import KeyConflict, PayloadError, SignalTimeout, await_signal, open_ledger, rerun, signal, telemetry
from signal_ledger.telemetry.registry import observed
from tests.eventually import eventually

SECRET = "hunter2-of-the-payload"

PREFIX = "signal_ledger."


@worker(max_attempts=3)
class Asking:
    """Waits on each of its channels, one after the other."""

    async def process(self, job):
        got = []
        for channel in job.args.get("channels", [None]):
            try:
                got.append(
                    await await_signal(
                        wait_for=job.args.get("wait_for"), wait_timeout=job.args.get("window", 0), channel=channel
                    )
                )
            except SignalTimeout:
                got.append("timeout")
        return Record(got)


@worker(max_attempts=1)
class Raising:
    """Gets a signal, and says what was in it when it fails."""

    async def process(self, job):
        raise ValueError(f"cannot do with {await await_signal(wait_timeout=0)}")


@worker()
class Telling:
    """Signals another job."""

    async def process(self, job):
        await signal(job.args["job_id"], "from a job", source="a job")


class Heard(list):
    """What was told, in its order, as pairs of a name and what it carried."""

    def of(self, name):
        return [told for heard, told in self if heard == f"{PREFIX}{name}"]

    def names(self):
        """The names, without those of batches: their number is the store's own business."""
        return [name.removeprefix(PREFIX) for name, _ in self if not name.startswith(f"{PREFIX}batch.")]

    async def until(self, name, count=1):
        await eventually(lambda: len(self.of(name)) >= count, what=f"{name} was told {count} times")
        return self.of(name)


def fields(told, *names):
    return tuple(told[name] for name in names)


class TelemetryContract:
    """Needs fixtures: `it` and `start`, `caller`; and methods, see at their end."""

    @pytest.fixture(autouse=True)
    def _nobody_listens(self):
        yield
        for handler_id in ("heard", "failing", telemetry.logger.ID):
            telemetry.detach(handler_id)
        assert not observed

    @pytest.fixture
    def heard(self, it):
        heard = Heard()
        telemetry.attach("heard", telemetry.EVENTS, lambda *told: heard.append(told))
        return heard

    async def test_a_wait_is_told_from_its_snooze_to_the_end_of_the_job(self, it, heard):
        job = await Asking.enqueue({"channels": ["approval"]})
        [snoozed] = await heard.until("snoozed")
        receipt = await it.engine.signal(job, "yes", channel="approval", source="ada", key="form 12")
        await it.until(job, "completed")
        await heard.until("execution.stop", 2)
        assert sorted(heard.names()) == sorted([
            "execution.start", "execution.stop", "snoozed", "signal.start", "delivered", "signal.stop",
            "execution.start", "consumed", "execution.stop",
        ])  # fmt: skip
        first, second = heard.of("execution.stop")
        assert fields(first, "job_id", "worker", "ended") == (job.id, "tests.telemetry.Asking", "snoozed")
        assert fields(second, "job_id", "worker", "ended") == (job.id, "tests.telemetry.Asking", "returned")
        assert first["execution"] != second["execution"]
        assert all(0 < stop["duration"] < 60e9 for stop in (first, second))
        assert [told["span_context"] for told in heard.of("execution.start")] == [
            told["span_context"] for told in heard.of("execution.stop")
        ]
        assert snoozed == {
            "job_id": job.id, "execution": first["execution"], "channel": "approval", "ordinal": 1,
        }  # fmt: skip
        [start], [stop] = heard.of("signal.start"), heard.of("signal.stop")
        call = {"targets": 1, "channel": "approval", "source": "ada", "has_key": True, "stored": False}
        assert call.items() <= start.items()
        assert {**call, "outcomes": {"woken": 1}}.items() <= stop.items()
        assert start["span_context"] is stop["span_context"]
        assert heard.of("delivered") == [
            {
                "job_id": job.id, "signal_id": receipt.signal_id, "channel": "approval", "source": "ada",
                "outcome": "woken", "version": receipt.version, "reason": None,
            }
        ]  # fmt: skip
        history = {event.kind: event for event in await it.engine.ledger.history(job)}
        waited = history["consumed"].recorded_at - history["delivered"].recorded_at
        assert heard.of("consumed") == [
            {
                "job_id": job.id, "execution": second["execution"], "channel": "approval", "ordinal": 1,
                "signal_id": receipt.signal_id, "wake_latency": round(waited.total_seconds() * 1e6) * 1000,
                "traceparent": None, "span_context": second["span_context"],
            }
        ]  # fmt: skip

    async def test_a_snooze_is_told_when_others_see_it(self, it):
        """By another connection, from within the handler."""
        seen = []

        def look(_name, told):
            seen.append(self.ask(it, "SELECT status FROM {waits} WHERE job_id = {job_id}", told["job_id"]))

        telemetry.attach("heard", [f"{PREFIX}snoozed"], look)
        jobs = await it.engine.enqueue_many(Asking.new() for _ in range(5))
        await eventually(lambda: len(seen) == len(jobs))
        assert seen == [[("snoozed",)]] * len(jobs)

    async def test_a_snooze_that_a_signal_was_quicker_than_is_none(self, it, heard):
        """The signal comes between the execution's last look and its acknowledgement, by another program."""

        async def send(job_id):
            async with open_ledger(it.url) as ledger:
                receipts.append(await ledger.signal(job_id, "quick"))

        def be_quick(_name, told):
            if told["ended"] == "snoozed":
                sending = threading.Thread(target=lambda: asyncio.run(send(told["job_id"])))
                sending.start()
                sending.join()

        receipts = []
        telemetry.attach("failing", [f"{PREFIX}execution.stop"], be_quick)
        job = await Asking.enqueue()
        await it.until(job, "completed")
        assert [receipt.outcome for receipt in receipts] == ["buffered"]
        assert "snoozed" in await it.kinds(job)
        assert heard.of("snoozed") == []
        assert len(heard.of("consumed")) == 1

    async def test_a_live_wait_is_told_once_and_resumed_in_place(self, it, heard):
        job = await Asking.enqueue({"channels": ["approval"], "window": 60})
        [awaited] = await heard.until("awaited")
        [start] = heard.of("execution.start")
        assert awaited == {
            "job_id": job.id, "execution": start["execution"], "channel": "approval", "ordinal": 1,
            "deadline_in": None, "span_context": start["span_context"],
        }  # fmt: skip
        await it.engine.signal(job, "of another channel", channel="other")
        await it.engine.signal(job, "yes", channel="approval")
        await it.until(job, "completed")
        await heard.until("execution.stop")
        assert [told["outcome"] for told in heard.of("delivered")] == ["buffered", "live"]
        assert len(heard.of("awaited")) == len(heard.of("consumed")) == 1
        assert heard.of("snoozed") == []

    async def test_a_time_out_is_told_with_how_late_it_was(self, it, heard):
        job = await Asking.enqueue({"wait_for": 0.05, "window": 10})
        [timed_out] = await heard.until("timed_out")
        [awaited] = heard.of("awaited")
        assert awaited["deadline_in"] == 50_000_000
        await it.until(job, "completed")
        event = (await it.engine.ledger.history(job))[1]
        overdue = event.recorded_at - event.deadline_at
        assert fields(timed_out, "job_id", "channel", "ordinal", "deadline_at", "overdue") == (
            job.id, None, 1, event.deadline_at, round(overdue.total_seconds() * 1e6) * 1000,
        )  # fmt: skip
        assert timed_out["overdue"] > 0

    async def test_what_is_replayed_is_told_once(self, it, heard):
        job = await Asking.enqueue({"channels": ["a", "b", "c"]})
        await heard.until("snoozed")
        for number, channel in enumerate("abc", 1):
            await it.engine.signal(job, channel, channel=channel)
            await heard.until("snoozed" if number < 3 else "consumed", number + 1 if number < 3 else 3)
        await it.until(job, "completed")
        assert [fields(told, "channel", "ordinal") for told in heard.of("consumed")] == [("a", 1), ("b", 1), ("c", 1)]

    async def test_each_receipt_of_a_list_is_told(self, it, heard):
        jobs = await it.engine.enqueue_many(Asking.new() for _ in range(2))
        await heard.until("snoozed", 2)
        await it.engine.signal([*jobs, jobs[0], 404_404], "yes")
        assert [fields(told, "job_id", "outcome", "reason") for told in heard.of("delivered")] == [
            (jobs[0].id, "woken", None),
            (jobs[1].id, "woken", None),
            (jobs[0].id, "duplicate", "pending"),
            (404_404, "ignored", "missing"),
        ]
        [stop] = heard.of("signal.stop")
        assert (stop["targets"], stop["outcomes"]) == (4, {"woken": 2, "duplicate": 1, "ignored": 1})

    async def test_a_signal_from_inside_of_a_job_is_told(self, it, heard):
        job = await Asking.enqueue()
        await heard.until("snoozed")
        await Telling.enqueue({"job_id": job.id})
        await it.until(job, "completed")
        assert [fields(told, "job_id", "source", "outcome") for told in heard.of("delivered")] == [
            (job.id, "a job", "woken")
        ]

    async def test_a_signal_of_a_callers_transaction_is_told_when_it_is_stored_and_when_it_is_relayed(
        self, it, heard, caller
    ):
        job = await Asking.enqueue()
        await heard.until("snoozed")
        await it.engine.signal(job, "yes", conn=caller.conn)
        assert [told["outcome"] for told in heard.of("delivered")] == ["stored"]
        assert [fields(told, "stored", "outcomes") for told in heard.of("signal.stop")] == [(True, {"stored": 1})]
        assert heard.of("relayed") == []
        await caller.commit()
        await it.until(job, "completed")
        assert await heard.until("relayed") == [{"count": 1}]

    async def test_what_fails_is_told_by_its_type(self, it, heard):
        job = await Asking.enqueue()
        await heard.until("snoozed")
        await it.engine.signal(job, "yes", channel="x", key="k")
        with pytest.raises(KeyConflict):
            await it.engine.signal(job, "no", channel="x", key="k")
        with pytest.raises(PayloadError):
            await it.engine.signal(job, object())
        assert [told["error_type"] for told in heard.of("signal.exception")] == ["KeyConflict", "PayloadError"]
        raising = await Raising.enqueue()
        await heard.until("snoozed", 2)
        await it.engine.signal(raising, SECRET)
        await it.until(raising, "discarded")
        [failed] = heard.of("execution.exception")
        assert fields(failed, "job_id", "worker", "error_type") == (raising.id, "tests.telemetry.Raising", "ValueError")

    async def test_a_cancelled_execution_says_so(self, it, heard):
        job = await Asking.enqueue({"window": 60})
        await heard.until("awaited")
        await it.engine.cancel_job(job)
        await it.until(job, "cancelled")
        assert [told["ended"] for told in await heard.until("execution.stop")] == ["cancelled"]

    async def test_batches_tell_how_many_calls_they_served(self, it, heard):
        jobs = await it.engine.enqueue_many(Asking.new({"window": 60}) for _ in range(2))
        await heard.until("awaited", 2)
        heard.clear()
        await asyncio.gather(*[it.engine.signal(jobs, number, channel="x") for number in range(50)])
        batches = [told for told in heard.of("batch.stop") if told["what"] == self.batch]
        assert sum(told["calls"] for told in batches) >= 50
        assert sum(told["rows"] for told in batches) >= 100
        assert max(told["calls"] for told in batches) > 1
        assert all(told["duration"] > 0 for told in batches)

    async def test_a_batch_that_is_run_again_is_told(self, it, heard):
        job = await Asking.enqueue({"window": 60})
        await heard.until("awaited")
        async with self.one_batch_fails(it):
            receipts = await asyncio.gather(*[it.engine.signal(job, number, channel="x") for number in range(10)])
        assert [receipt.outcome for receipt in receipts] == ["buffered"] * 10
        [retry] = heard.of("batch.retry")
        assert retry["what"] == self.batch
        assert retry["calls"] > 1
        assert retry["error_type"].endswith("Error")

    async def test_the_end_of_a_run_that_is_made_up_for_is_told(self, it, heard):
        job = await Asking.enqueue()
        await heard.until("snoozed")
        await self.end_behind_the_librarys_back(it, job)
        assert await heard.until("repaired") == [{"count": 1}]
        assert (await it.kinds(job))[-1] == "closed"

    async def test_handlers_that_fail_harm_nothing(self, it, caller, caplog):
        def fail(name, _told):
            raise ZeroDivisionError(name)

        telemetry.attach("failing", telemetry.EVENTS, fail)
        job = await Asking.enqueue({"channels": ["a", "b"], "wait_for": 600, "window": 0.01})
        await it.until_status(job, "snoozed")
        assert (await it.engine.signal(job, "yes", channel="a", conn=caller.conn)).outcome == "stored"
        await caller.commit()
        await it.engine.signal(job, "yes", channel="b")
        found = await it.until(job, "completed")
        assert found.errors == []
        told = {record.args[1] for record in caplog.records if record.name == "signal_ledger.telemetry.registry"}
        assert {f"{PREFIX}{name}" for name in ("snoozed", "consumed", "relayed", "delivered", "batch.stop")} <= told

    async def test_no_payload_and_no_key_is_ever_told_or_logged(self, it, heard, caller, caplog):
        caplog.set_level(logging.DEBUG)
        telemetry.logger.attach(level=logging.DEBUG, events=telemetry.EVENTS)
        key = f"key {SECRET}"
        job = await Asking.enqueue({"channels": ["a", "b"], "wait_for": 600})
        raising = await Raising.enqueue()
        await heard.until("snoozed", 2)
        await it.engine.signal(job, {"password": SECRET}, channel="a", key=key)
        with pytest.raises(KeyConflict):
            await it.engine.signal(job, [SECRET], channel="a", key=key)
        with pytest.raises(PayloadError):
            await it.engine.signal(job, {SECRET: object()}, channel="a")
        await it.engine.signal(job, SECRET, channel="b", conn=caller.conn)
        await caller.commit()
        await it.engine.signal(raising, SECRET)
        await it.until(job, "completed")
        await it.until(raising, "discarded")
        await heard.until("execution.exception")
        assert {"delivered", "consumed", "relayed", "signal.exception", "batch.stop"} <= {
            name.removeprefix(PREFIX) for name, _ in heard
        }
        assert SECRET not in repr(list(heard))
        ours = [record for record in caplog.records if record.name.startswith("signal_ledger")]
        lines = [json.loads(record.getMessage()) for record in ours if record.name == "signal_ledger.telemetry"]
        assert {line["event"] for line in lines} == {name for name, _ in heard}
        for record in ours:
            told = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            assert SECRET not in record.getMessage() + told

    async def test_a_rerun_tells_nothing(self, it, heard):
        job = await Asking.enqueue()
        await heard.until("snoozed")
        await it.engine.signal(job, "yes")
        await it.until(job, "completed")
        await heard.until("execution.stop", 2)
        history = await it.engine.ledger.export(job)
        telling = await Telling.enqueue({"job_id": job.id})
        await it.until(telling, "completed")
        await heard.until("execution.stop", 3)
        other = await it.engine.ledger.export(telling)
        heard.clear()
        assert (await rerun(Asking, history)).ended == "returned"
        report = await rerun(Telling, other)
        assert (report.ended, len(report.signals)) == ("returned", 1)
        assert heard.names() == []

    # What each engine does in its own way.

    batch: str
    """What batches of signals are called."""

    def ask(self, it, sql, job_id):
        """Return the rows of a statement, by a connection of its own. ``{waits}`` is the table of the projection."""
        raise NotImplementedError

    def one_batch_fails(self, it):
        """Let the next batch of several signals fail, as if because of another transaction."""
        raise NotImplementedError

    async def end_behind_the_librarys_back(self, it, job):
        """End a job so that the end of its run cannot be appended, and has to be made up for."""
        raise NotImplementedError
