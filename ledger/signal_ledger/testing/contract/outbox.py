"""Signals in a caller's own transaction: promise D8."""

import asyncio

import pytest

from signal_ledger.decisions import GotTimeout
from signal_ledger.errors import PayloadError
from signal_ledger.jobs import JobState
from signal_ledger.names import JobId
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter
from signal_ledger.recorded import RecordedEvent
from signal_ledger.testing.bench import Bench, take
from signal_ledger.testing.contract.steps import asleep, executing, kinds, payload_of


class OutboxContract:
    """Promise D8."""

    async def test_d8_a_stored_signal_is_delivered_after_the_commit_and_under_its_id(self, bench: Bench) -> None:
        job_id = await bench.insert()
        async with bench.transaction() as conn:
            receipt = await bench.signaller.store(conn, job_id, {"decision": "approved"}, channel="votes", key="k")
            assert (receipt.job_id, receipt.outcome, receipt.version) == (job_id, "stored", None)
        assert await kinds(bench, job_id) == []
        await bench.relay()
        [delivered] = await bench.store.history(job_id)
        assert (delivered.signal_id, delivered.payload) == (receipt.signal_id, {"decision": "approved"})
        assert (delivered.channel, delivered.key, delivered.source) == ("votes", "k", "test")
        assert await outbox(bench) == []

    async def test_d8_a_signal_that_is_rolled_back_never_was(self, bench: Bench) -> None:
        job_id = await bench.insert()
        with pytest.raises(_RollBack):
            await store_and_roll_back(bench, job_id)
        await bench.relay()
        assert await kinds(bench, job_id) == []
        assert await outbox(bench) == []

    async def test_d8_what_waits_for_its_relay_can_be_seen(self, bench: Bench) -> None:
        job_id = await bench.insert()
        async with bench.transaction() as conn:
            receipt = await bench.signaller.store(conn, job_id, "secret", channel="votes", key="k")
            await bench.signaller.store(conn, job_id, "secret")
        keyed, other = await outbox(bench)
        assert (keyed.signal_id, keyed.job_id, keyed.refusal) == (receipt.signal_id, job_id, None)
        assert (keyed.channel, keyed.key, keyed.source, keyed.stored_at) == ("votes", "k", "test", bench.clock())
        assert (other.channel, other.key) == (None, None)
        assert "secret" not in repr(keyed)

    async def test_d8_the_rows_of_a_transaction_are_relayed_in_call_order(self, bench: Bench) -> None:
        job_ids = [await bench.insert() for _ in range(3)]
        order = [2, 0, 1, 1, 0, 2, 0, 0, 2]
        async with bench.transaction() as conn:
            for number, place in enumerate(order):
                await bench.signaller.store(conn, job_ids[place], number)
        await bench.relay()
        log = await whole_log(bench)
        assert [recorded.payload for recorded in log] == list(range(len(order)))
        assert [recorded.job_id for recorded in log] == [job_ids[place] for place in order]

    async def test_d8_a_relayed_signal_wakes_its_job(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, job_id, "go")
        job = await bench.job(job_id)
        assert job is not None
        assert job.state is JobState.SCHEDULED
        await bench.relay()
        assert payload_of(await take(bench, job_id, await executing(bench, job_id))) == "go"

    async def test_d8_a_relayed_signal_reaches_a_live_wait(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution)
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, job_id, "go")
        await bench.relay()
        [*_, delivered] = await bench.store.history(job_id)
        assert delivered.outcome == "live"
        assert payload_of(await take(bench, job_id, execution)) == "go"

    async def test_d8_the_time_of_the_relay_counts(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, job_id, "late")
        stored_at = bench.clock()
        bench.clock.advance(61)
        await bench.relay()
        [*_, delivered] = await bench.store.history(job_id)
        assert (delivered.outcome, delivered.recorded_at > stored_at) == ("buffered", True)
        assert isinstance(await take(bench, job_id, await executing(bench, job_id)), GotTimeout)

    async def test_d8_a_later_signal_may_be_delivered_before_the_relay(self, bench: Bench) -> None:
        job_id = await bench.insert()
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, job_id, "stored")
        await bench.signaller.send(job_id, "sent")
        await bench.relay()
        assert [recorded.payload for recorded in await bench.store.history(job_id)] == ["sent", "stored"]

    async def test_d8_a_signal_for_a_missing_job_stays_readable_under_its_id(self, bench: Bench) -> None:
        async with bench.transaction() as conn:
            receipt = await bench.signaller.store(conn, 404, "lost")
        for _ in range(2):
            await bench.relay()
            [stored] = await outbox(bench)
            assert (stored.signal_id, stored.job_id, stored.refusal) == (receipt.signal_id, 404, "missing")
        assert await bench.store.history(JobId(404)) == []

    async def test_d8_a_signal_for_an_ended_job_stays_readable_with_the_state(self, bench: Bench) -> None:
        job_id = await bench.insert()
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, job_id, "lost")
        await bench.finish(job_id, await executing(bench, job_id), JobState.COMPLETED)
        await bench.relay()
        assert [stored.refusal for stored in await outbox(bench)] == ["completed"]

    async def test_d8_a_conflict_stays_readable_and_a_duplicate_is_done_with(self, bench: Bench) -> None:
        job_id = await bench.insert()
        async with bench.transaction() as conn:
            for payload, channel in [(1, None), (1, None), (2, None), (1, "other"), (3, None)]:
                key = None if payload == 3 else "k"
                await bench.signaller.store(conn, job_id, payload, channel=channel, key=key)
        await bench.relay()
        refused = [(stored.channel, stored.key, stored.refusal) for stored in await outbox(bench)]
        assert refused == [(None, "k", "conflict: payload"), ("other", "k", "conflict: channel")]
        # What stands behind a refused signal is delivered all the same.
        assert [recorded.payload for recorded in await bench.store.history(job_id)] == [1, 3]

    async def test_d8_the_id_of_an_unknown_call_serves_as_key(self, bench: Bench) -> None:
        job_id = await bench.insert()
        first = await bench.signaller.send(job_id, 1)
        async with bench.transaction() as conn:
            await bench.signaller.store(conn, job_id, 1, key=first.signal_id)
        await bench.relay()
        assert await kinds(bench, job_id) == ["delivered"]
        assert await outbox(bench) == []

    async def test_d8_a_list_is_stored_with_an_id_for_each_job(self, bench: Bench) -> None:
        job_ids = [await bench.insert() for _ in range(3)]
        async with bench.transaction() as conn:
            receipts = await bench.signaller.store_all(conn, [*reversed(job_ids), job_ids[0], 404], "all")
            assert await bench.signaller.store_all(conn, [], "none") == []
        assert [receipt.outcome for receipt in receipts] == ["stored", "stored", "stored", "duplicate", "stored"]
        assert receipts[3].signal_id == receipts[2].signal_id
        await bench.relay()
        log = await whole_log(bench)
        assert [(recorded.job_id, recorded.signal_id) for recorded in log] == [
            (receipt.job_id, receipt.signal_id) for receipt in receipts[:3]
        ]
        # One job of a list that is refused takes nothing from the others, unlike the refusal of a call (D2).
        assert [stored.job_id for stored in await outbox(bench)] == [404]

    async def test_d8_arguments_and_payload_are_checked_before_anything_is_stored(self, bench: Bench) -> None:
        job_id = await bench.insert()
        async with bench.transaction() as conn:
            with pytest.raises(PayloadError):
                await bench.signaller.store(conn, job_id, object())
            with pytest.raises(ValueError, match="channel"):
                await bench.signaller.store(conn, job_id, channel="")
        assert await outbox(bench) == []

    async def test_d8_what_is_no_connection_is_refused(self, bench: Bench) -> None:
        with pytest.raises(TypeError, match="conn: expected"):
            await bench.signaller.store(object(), 1)

    async def test_d8_every_row_is_relayed_once_however_many_relay(self, bench: Bench) -> None:
        job_ids = [await bench.insert() for _ in range(4)]
        async with bench.transaction() as conn:
            for number in range(120):
                await bench.signaller.store(conn, job_ids[number % 4], number)
        await asyncio.gather(*[bench.relay() for _ in range(3)])
        await bench.relay()
        for place, job_id in enumerate(job_ids):
            payloads = [recorded.payload for recorded in await bench.store.history(job_id)]
            assert payloads == list(range(place, 120, 4))
        assert await outbox(bench) == []

    async def test_d8_the_outbox_is_read_page_by_page(self, bench: Bench) -> None:
        async with bench.transaction() as conn:
            receipts = [await bench.signaller.store(conn, 404 + number) for number in range(5)]
        pages = [await bench.store.outbox(limit=2, after=None)]
        while len(pages[-1]) == 2:
            pages.append(await bench.store.outbox(limit=2, after=pages[-1][-1].cursor))
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [row.signal_id for page in pages for row in page] == [receipt.signal_id for receipt in receipts]
        with pytest.raises(ValueError, match="after: expected the cursor of a stored signal, got 'p1'"):
            await bench.store.outbox(limit=2, after="p1")

    async def test_d8_large_payloads_are_relayed_in_bounded_batches(self, bench: Bench) -> None:
        job_id = await bench.insert()
        async with bench.transaction() as conn:
            for number in range(4):
                await bench.signaller.store(conn, job_id, [number, b"x" * 3_000_000])
        await bench.relay()
        payloads = [recorded.payload for recorded in await bench.store.history(job_id)]
        assert [payload[0] for payload in payloads] == [0, 1, 2, 3]


class _RollBack(Exception):  # noqa: N818 - nothing went wrong
    """Leaves a transaction."""


async def store_and_roll_back(bench: Bench, job_id: JobId) -> None:
    """Store a signal in a transaction that is rolled back."""
    async with bench.transaction() as conn:
        await bench.signaller.store(conn, job_id, "never")
        raise _RollBack


async def outbox(bench: Bench) -> list[StoredSignal]:
    """Return what is in the outbox, all of it."""
    return await bench.store.outbox(limit=1000, after=None)


async def whole_log(bench: Bench) -> list[RecordedEvent]:
    """Return the log, in its order."""
    return await bench.store.page(EventFilter(), 1000)
