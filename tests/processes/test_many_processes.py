"""Several processes signal the same jobs while another one runs them (promises D1, D2, D4, D6, W8, L3)."""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from itertools import pairwise

import pytest
from oban._recorded import decode_recorded

from signal_ledger import lite
from signal_ledger.evolve import fold
from tests.eventually import eventually
from tests.processes.children import child
from tests.processes.engine import Gather

CLIENTS = ("ada", "bob", "cyd")
CHANNELS = (None, "votes")
ROUNDS = 20
KEYED_BY = ("ada", "bob")
KEYS = 10
# Two jobs snooze at once, two wait live for as long as it takes.
WINDOWS = (0, 0, 3600, 3600)


def calls_of(client, jobs):
    """What a client sends, in order: to each job alone, to all of them at once, and under keys of two clients."""
    calls = []
    for n in range(ROUNDS):
        for channel in CHANNELS:
            call = {"payload": {"from": client, "n": n}, "channel": channel, "source": client}
            targets = [[job.id for job in jobs]] if n % 4 == 0 else [job.id for job in jobs]
            calls += [{**call, "target": target} for target in targets]
        if client in KEYED_BY and n % 2 == 0:
            # In opposite orders: each of the two is the first for some keys, unless they did not run together.
            number = n // 2 if client == KEYED_BY[0] else KEYS - 1 - n // 2
            shared = {"payload": {"key": number}, "channel": "votes", "key": f"key-{number}", "source": client}
            calls.append({**shared, "target": [job.id for job in jobs]})
    return calls


async def play(url, folder, jobs):
    """Let the clients send, all at once, and return the receipts of each in order."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for name in CLIENTS:
            (folder / f"{name}-calls.json").write_text(json.dumps(calls_of(name, jobs)))
            files = (folder / f"{name}-calls.json", folder / f"{name}-receipts.jsonl")
            clients.append(await stack.enter_async_context(child("client", url, *files)))
        for client in clients:
            client.stdin.write(b"go\n")
        await asyncio.wait_for(asyncio.gather(*[client.wait() for client in clients]), 60)
    return {
        name: [json.loads(line) for line in (folder / f"{name}-receipts.jsonl").read_text().splitlines()]
        for name in CLIENTS
    }


async def run(url, folder):
    """Run it all; return the receipts of each client, each job's history, and what each job got by channel."""
    per_channel = ROUNDS * len(CLIENTS)
    counts = {"": per_channel, "votes": per_channel + KEYS}
    async with child("engine", url), lite(url, queues={}) as engine:
        jobs = await engine.enqueue_many(Gather.new({"counts": counts, "window": window}) for window in WINDOWS)

        async def all_wait():
            return len(await engine.ledger.waiting()) == len(jobs)

        await eventually(all_wait, timeout=30)
        receipts = await play(url, folder, jobs)

        async def all_completed():
            return all([(await engine.get_job(job.id)).state == "completed" for job in jobs])

        await eventually(all_completed, timeout=60)
        histories = {job.id: await engine.ledger.history(job.id) for job in jobs}
        for job_id, history in histories.items():
            assert await engine.ledger.state(job_id) == fold(job_id, history)
        report = await engine.ledger.verify()
        assert report.ok, str(report)
        got = {job.id: decode_recorded((await engine.get_job(job.id)).meta["return"]) for job in jobs}
    return receipts, histories, got


def deliveries_of(history, channel):
    return [event for event in history if event.kind == "delivered" and event.channel == channel]


async def test_d1_what_a_killed_client_was_told_is_in_the_log(tmp_path):
    url, calls, receipts = f"sqlite:///{tmp_path}/signals.db", tmp_path / "calls.json", tmp_path / "receipts.jsonl"
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Gather.new())
        many = [{"target": job.id, "payload": n} for n in range(5000)]
        calls.write_text(json.dumps(many))
        async with child("client", url, calls, receipts, ends_with=-signal.SIGKILL) as client:
            client.stdin.write(b"go\n")
            await eventually(lambda: receipts.exists() and receipts.read_text().count("\n") >= 50)
            client.kill()
        told = [json.loads(line) for line in receipts.read_text().splitlines()]
        history = await engine.ledger.history(job)
        assert len(told) < len(many)
        # The call that it was killed in may have been stored or not; all before it were.
        assert len(history) - len(told) in (0, 1)
        assert [event.payload for event in history] == list(range(len(history)))
        ids = [(event.signal_id, event.version) for event in history]
        assert ids[: len(told)] == [(receipt["signal_id"], receipt["version"]) for receipt in told]
        report = await engine.ledger.verify()
        assert report.ok, str(report)


@pytest.mark.timeout(300)
async def test_d1_d4_d6_w8_what_several_processes_signal_is_kept_once_in_order_and_consumed_once(tmp_path):
    receipts, histories, got = await run(f"sqlite:///{tmp_path}/signals.db", tmp_path)
    told = [receipt for client in CLIENTS for receipt in receipts[client]]
    new = [receipt for receipt in told if receipt["outcome"] != "duplicate"]

    they_really_overlapped(receipts, histories)
    every_receipt_is_in_the_log_once(new, histories)
    each_key_was_delivered_once(told, histories)
    for client in CLIENTS:
        each_client_finds_its_own_order(client, receipts[client], histories)
    for job_id, history in histories.items():
        for channel in CHANNELS:
            delivered = deliveries_of(history, channel)
            consumed = [event for event in history if event.kind == "consumed" and event.channel == channel]
            # Each one once, first in first out; and the job saw what the log says.
            assert [event.delivery_version for event in consumed] == [event.version for event in delivered]
            assert [event.signal_id for event in consumed] == [event.signal_id for event in delivered]
            assert got[job_id][channel or ""] == [event.payload for event in delivered]


def they_really_overlapped(receipts, histories):
    """A run in which one process came after the other proves nothing."""
    events = sorted((event for history in histories.values() for event in history), key=lambda event: event.position)
    delivered = [event for event in events if event.kind == "delivered"]
    turns = Counter((one.source, next_one.source) for one, next_one in pairwise(delivered))
    for one, other in [(one, other) for one in CLIENTS for other in CLIENTS if one != other]:
        assert turns[one, other] >= 3, turns
    positions = [event.position for event in events if event.kind == "consumed"]
    assert sum(position < delivered[-1].position for position in positions) >= len(positions) // 10
    winners = {event.source for event in delivered if event.key is not None}
    assert winners == set(KEYED_BY)
    outcomes = {receipt["outcome"] for client in CLIENTS for receipt in receipts[client]}
    assert outcomes == {"woken", "live", "buffered", "duplicate"}


def every_receipt_is_in_the_log_once(new, histories):
    """And nothing else is."""
    for receipt in new:
        event = histories[receipt["job_id"]][receipt["version"] - 1]
        assert event.kind == "delivered"
        assert (event.signal_id, event.outcome) == (receipt["signal_id"], receipt["outcome"])
        assert (event.payload, event.channel, event.source) == (
            receipt["payload"],
            receipt["channel"],
            receipt["source"],
        )
    ids = Counter(event.signal_id for history in histories.values() for event in history if event.kind == "delivered")
    assert ids == Counter(receipt["signal_id"] for receipt in new)
    assert set(ids.values()) == {1}


def each_key_was_delivered_once(told, histories):
    for job_id, history in histories.items():
        for number in range(KEYS):
            [delivered] = [event for event in history if event.key == f"key-{number}"]
            of_both = [
                receipt for receipt in told if receipt["job_id"] == job_id and receipt.get("key") == f"key-{number}"
            ]
            assert [receipt["source"] for receipt in of_both] == list(KEYED_BY)
            assert len([receipt for receipt in of_both if receipt["outcome"] == "duplicate"]) == 1
            for receipt in of_both:
                assert (receipt["signal_id"], receipt["version"]) == (delivered.signal_id, delivered.version)


def each_client_finds_its_own_order(client, receipts, histories):
    """In the whole log; within a call to several jobs the order of their ids decides."""
    positions = [
        histories[receipt["job_id"]][receipt["version"] - 1].position
        for receipt in receipts
        if receipt["outcome"] != "duplicate"
    ]
    assert positions == sorted(positions)
    for history in histories.values():
        for channel in CHANNELS:
            own = [
                event.payload["n"]
                for event in deliveries_of(history, channel)
                if event.source == client and event.key is None
            ]
            assert own == list(range(ROUNDS))
