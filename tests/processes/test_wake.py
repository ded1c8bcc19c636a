"""A commit of another process is noticed when it happens, not at the next look (promises D5, W3, W5)."""

import pytest

from signal_ledger import lite, open_ledger
from signal_ledger.embedded.operations import Look
from signal_ledger_adapters.lite import watch
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.eventually import eventually
from tests.processes.children import child
from tests.processes.engine import Gather

ROUNDS = 10
HOUR_S = 3600


@pytest.mark.parametrize(("window", "status", "outcome"), [(0, "snoozed", "woken"), (HOUR_S, "live", "live")])
async def test_d5_w3_w5_another_process_wakes_a_job_though_the_engine_looks_once_an_hour(
    tmp_path, window, status, outcome
):
    url = f"sqlite:///{tmp_path}/signals.db"
    async with child("engine", url, HOUR_S):
        async with lite(url, queues={}) as engine:
            job = await engine.enqueue(Gather.new({"counts": {"": ROUNDS}, "window": window}))
        # From here on nothing but the signals is written by this process, so nothing else can be noticed.
        async with open_ledger(url) as ledger:
            for n in range(1, ROUNDS + 1):

                async def waits(n=n):
                    state = await ledger.state(job.id)
                    return (state.status, state.ordinal) == (status, n)

                await eventually(waits, what=f"await {n} is {status}")
                assert (await ledger.signal(job.id, n)).outcome == outcome

            async def closed():
                return (await ledger.state(job.id)).status == "closed"

            await eventually(closed)
            history = await ledger.history(job.id)
            assert [event.payload for event in history if event.kind == "delivered"] == list(range(1, ROUNDS + 1))
            assert len([event for event in history if event.kind == "consumed"]) == ROUNDS


async def test_d5_what_is_committed_during_a_look_is_noticed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_S", HOUR_S)
    read = SqliteStore.read
    receipts = []

    async def read_and_be_late(store, operation):
        seen = await read(store, operation)
        if isinstance(operation, Look) and not receipts and await ledger.history(other.id):
            receipts.append(await ledger.signal(job.id, "late"))
        return seen

    url = f"sqlite:///{tmp_path}/signals.db"
    async with lite(url) as engine, open_ledger(url) as ledger:
        job = await engine.enqueue(Gather.new({"counts": {"": 1}, "window": HOUR_S}))
        other = await engine.enqueue(Gather.new(scheduled_in=HOUR_S))

        async def status():
            return (await ledger.state(job.id)).status

        async def is_live():
            return await status() == "live"

        async def is_closed():
            return await status() == "closed"

        await eventually(is_live)
        monkeypatch.setattr(SqliteStore, "read", read_and_be_late)
        assert (await ledger.signal(other.id, "a reason to look")).outcome == "buffered"
        await eventually(is_closed)
    assert [receipt.outcome for receipt in receipts] == ["live"]
