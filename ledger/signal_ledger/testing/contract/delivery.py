"""Deliveries: promises D2 to D7."""

import asyncio

import pytest

from signal_ledger.decisions import (
    Waiting,
)
from signal_ledger.errors import KeyConflict
from signal_ledger.jobs import JobState
from signal_ledger.names import JobId
from signal_ledger.testing.bench import Bench, take
from signal_ledger.testing.contract.steps import asleep, executing, kinds, payload_of


class DeliveryContract:
    """Promises D2 to D7."""

    async def test_d3_a_signal_to_a_missing_job_is_ignored_and_leaves_no_event(self, bench: Bench) -> None:
        receipt = await bench.signaller.send(404)
        assert (receipt.outcome, receipt.reason, receipt.signal_id, receipt.version) == (
            "ignored",
            "missing",
            None,
            None,
        )
        assert await bench.store.history(JobId(404)) == []

    async def test_d3_a_signal_to_an_ended_job_is_ignored_and_says_how_it_ended(self, bench: Bench) -> None:
        for state in (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED):
            job_id = await bench.insert()
            await bench.finish(job_id, await executing(bench, job_id), state)
            receipt = await bench.signaller.send(job_id)
            assert (receipt.outcome, receipt.reason) == ("ignored", state.value)
            assert await bench.store.history(job_id) == []

    async def test_d4_signals_before_the_await_are_kept_in_order(self, bench: Bench) -> None:
        job_id = await bench.insert()
        signaller = bench.signaller
        for number in range(5):
            assert (await signaller.send(job_id, number)).outcome == "buffered"
        execution = await executing(bench, job_id)
        got = [payload_of(await take(bench, job_id, execution, ordinal=ordinal)) for ordinal in range(1, 6)]
        assert got == [0, 1, 2, 3, 4]

    async def test_d4_each_channel_has_its_own_order(self, bench: Bench) -> None:
        job_id = await bench.insert()
        signaller = bench.signaller
        for number, channel in enumerate(["a", None, "b", "a", None]):
            await signaller.send(job_id, number, channel=channel)
        execution = await executing(bench, job_id)
        assert payload_of(await take(bench, job_id, execution, channel="b", ordinal=1)) == 2
        assert payload_of(await take(bench, job_id, execution, channel="", ordinal=1)) == 1
        assert payload_of(await take(bench, job_id, execution, channel="a", ordinal=1)) == 0
        assert payload_of(await take(bench, job_id, execution, channel="a", ordinal=2)) == 3
        assert payload_of(await take(bench, job_id, execution, channel="", ordinal=2)) == 4

    async def test_d5_the_receipt_tells_the_outcome_and_where_it_stands_in_the_log(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        receipt = await bench.signaller.send(job_id, "now")
        assert receipt.outcome == "woken"
        [delivered] = [recorded for recorded in await bench.store.history(job_id) if recorded.kind == "delivered"]
        assert (delivered.version, delivered.signal_id) == (receipt.version, receipt.signal_id)
        assert (delivered.outcome, delivered.payload) == ("woken", "now")

    async def test_d5_a_signal_to_a_live_wait_is_live(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        assert isinstance(await take(bench, job_id, execution), Waiting)
        assert (await bench.signaller.send(job_id)).outcome == "live"

    async def test_d2_a_list_gets_a_delivery_each_in_the_order_of_the_list(self, bench: Bench) -> None:
        job_ids = [await bench.insert() for _ in range(3)]
        receipts = await bench.signaller.send_all([job_ids[2], job_ids[0], job_ids[1]], "all")
        assert [receipt.job_id for receipt in receipts] == [job_ids[2], job_ids[0], job_ids[1]]
        assert len({receipt.signal_id for receipt in receipts}) == 3
        for job_id in job_ids:
            [delivered] = await bench.store.history(job_id)
            assert delivered.payload == "all"

    async def test_d2_a_job_listed_twice_gets_the_signal_once(self, bench: Bench) -> None:
        first, second = await bench.insert(), await bench.insert()
        receipts = await bench.signaller.send_all([first, second, first, 404])
        assert [receipt.outcome for receipt in receipts] == ["buffered", "buffered", "duplicate", "ignored"]
        assert receipts[2].signal_id == receipts[0].signal_id
        assert await kinds(bench, first) == ["delivered"]

    async def test_d2_an_empty_list_does_nothing(self, bench: Bench) -> None:
        assert await bench.signaller.send_all([]) == []

    async def test_d2_a_refusal_for_one_job_leaves_none_with_a_signal(self, bench: Bench) -> None:
        first, second = await bench.insert(), await bench.insert()
        signaller = bench.signaller
        await signaller.send(second, "one", key="k")
        with pytest.raises(KeyConflict) as refused:
            await signaller.send_all([first, second], "another", key="k")
        conflict = refused.value
        assert (conflict.job_id, conflict.key, conflict.difference) == (second, "k", "payload")
        assert await kinds(bench, first) == []
        assert await kinds(bench, second) == ["delivered"]

    async def test_d2_calls_that_share_a_batch_do_not_share_a_fate(self, bench: Bench) -> None:
        first, second = await bench.insert(), await bench.insert()
        signaller = bench.signaller
        await signaller.send(first, "one", key="k")
        results = await asyncio.gather(
            signaller.send(second, 1),
            signaller.send(first, "another", key="k"),
            signaller.send(second, 2),
            return_exceptions=True,
        )
        assert isinstance(results[1], KeyConflict)
        assert await kinds(bench, second) == ["delivered", "delivered"]

    async def test_d6_a_key_delivers_once_and_tells_what_became_of_it(self, bench: Bench) -> None:
        job_id = await bench.insert()
        signaller = bench.signaller
        first = await signaller.send(job_id, {"a": 1, "b": 2}, key="k")
        again = await signaller.send(job_id, {"b": 2, "a": 1}, key="k")
        assert (again.outcome, again.signal_id, again.version) == ("duplicate", first.signal_id, first.version)
        assert again.reason == "pending"
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution)
        assert (await signaller.send(job_id, {"a": 1, "b": 2}, key="k")).reason == "consumed"
        await signaller.send(job_id, 2, key="left")
        await bench.finish(job_id, execution, JobState.COMPLETED)
        # The key is looked at before the job's state, and is unique for ever.
        assert (await signaller.send(job_id, {"a": 1, "b": 2}, key="k")).reason == "consumed"
        assert (await signaller.send(job_id, 2, key="left")).reason == "ended with its run"
        await bench.retry(job_id)
        assert (await signaller.send(job_id, 2, key="left")).reason == "ended with its run"
        assert await kinds(bench, job_id) == ["delivered", "consumed", "delivered", "closed"]

    async def test_d6_a_key_of_another_channel_is_a_conflict(self, bench: Bench) -> None:
        job_id = await bench.insert()
        signaller = bench.signaller
        await signaller.send(job_id, 1, key="k")
        with pytest.raises(KeyConflict) as refused:
            await signaller.send(job_id, 1, key="k", channel="other")
        conflict = refused.value
        assert conflict.difference == "channel"

    async def test_d6_payloads_that_are_equal_but_of_another_type_conflict(self, bench: Bench) -> None:
        job_id = await bench.insert()
        signaller = bench.signaller
        await signaller.send(job_id, 1, key="k")
        with pytest.raises(KeyConflict) as refused:
            await signaller.send(job_id, True, key="k")
        conflict = refused.value
        assert conflict.difference == "payload"

    async def test_d6_the_same_key_serves_different_jobs(self, bench: Bench) -> None:
        first, second = await bench.insert(), await bench.insert()
        receipts = await bench.signaller.send_all([first, second], 1, key="k")
        assert [receipt.outcome for receipt in receipts] == ["buffered", "buffered"]

    async def test_d6_a_retried_call_gets_the_first_receipt(self, bench: Bench) -> None:
        job_ids = [await bench.insert(), await bench.insert()]
        for key in ("k", None):
            receipts = await bench.signaller.send_all(job_ids, 1, key=key)
            assert [receipt.outcome for receipt in receipts] == ["buffered", "buffered"]
            # A retry keeps the ids of its call.
            assert await bench.signaller.repeat_last() == receipts
        assert await kinds(bench, job_ids[0]) == ["delivered", "delivered"]

    async def test_d6_the_id_of_an_unknown_call_serves_as_key(self, bench: Bench) -> None:
        single, listed = await bench.insert(), await bench.insert()
        signaller = bench.signaller
        first = await signaller.send(single, 1)
        assert first.signal_id is not None
        again = await signaller.send(single, 1, key=first.signal_id)
        assert (again.outcome, again.signal_id) == ("duplicate", first.signal_id)
        [in_list] = await signaller.send_all([listed], 1)
        # The repeat has drawn none.
        call_id = "00000000-0000-0000-0000-000000000002"
        [repeated] = await signaller.send_all([listed], 1, key=call_id)
        assert (repeated.outcome, repeated.signal_id) == ("duplicate", in_list.signal_id)

    async def test_d7_the_source_is_kept(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await bench.signaller.send(job_id)
        [delivered] = await bench.store.history(job_id)
        assert delivered.source == "test"
