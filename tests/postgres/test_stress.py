"""Everything at once, in several processes: nothing is lost, nothing happens twice (D2, D4, D6, W8, W12, W13, L3)."""

import asyncio
import contextlib
import itertools
import json
from collections import Counter, defaultdict

import psycopg
import pytest
from oban import Oban
from oban._recorded import decode_recorded
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach, open_ledger
from signal_ledger.evolve import fold
from tests.eventually import eventually
from tests.processes.children import child
from tests.processes.stress import STOP, Eater

ROLES = ["engine", "engine", "client", "client", "client", "chaos"]
SECONDS = 8
DEADLOCKS = 10
JOBS = 40

MUST_MEET = {
    "batch run again": "a delivery or a take that was rolled back by a deadlock and run again",
    "failure": "a worker that failed",
    "cancels": "a cancel",
    "retries": "a retry",
    "rescues": "a rescue",
    "deletes": "a delete",
    "others": "another transaction on several jobs",
    "woken": "a signal that woke a job",
    "live": "a signal to a live wait",
    "buffered": "a signal for later",
    "duplicate": "a key that was there",
    "ignored": "a signal to a job that had ended",
    "consumed": "a signal that was consumed",
    "timed_out": "a wait that timed out",
    "caught by the snooze": "a signal between the last look and the acknowledgement",
    "superseded": "an execution that another one took over from, while it waited",
    "cancelled while executing": "a cancel of a job that executed",
    "another run": "a finished job that was retried",
    "ended with its run": "a signal that its run's end left behind",
    "both clients": "keys of which one client was first with some, and another one with others",
}


@pytest.mark.timeout(300)
async def test_nothing_is_lost_and_nothing_happens_twice(ledger_url, tmp_path):
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        # Deadlocks cost a second each otherwise.
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET deadlock_timeout = '20ms'")
    met, receipts, histories, returned = await play(ledger_url, tmp_path)

    every_delivery_has_one_receipt(receipts, histories)
    every_key_was_delivered_once(receipts, histories)
    for job_id, history in histories.items():
        for run in runs_of(history):
            nothing_was_lost(run)
            # All have ended, or are gone.
            assert run[-1].kind == "closed"
        if job_id in returned:
            assert returned[job_id] == outcomes_of(runs_of(history)[-1])
    count_what_was_met(met, receipts, histories)
    assert [what for name, what in MUST_MEET.items() if not met[name]] == [], met


async def play(url, folder):
    """Let it all run for a while, then settle. Return what was met, receipts, histories, and results."""
    met, receipts = Counter(), []
    async with (
        AsyncConnectionPool(url, min_size=1, open=False) as pool,
        attach(Oban(pool=pool)) as watching,
        contextlib.AsyncExitStack() as stack,
    ):
        jobs = await watching.enqueue_many(
            Eater.new({"window": [0, 0.05, 0.5][n % 3], "wait_for": [None, None, None, 0.3][n % 4]})
            for n in range(JOBS)
        )
        reports = [folder / f"{number}.json" for number, _ in enumerate(ROLES)]
        processes = [
            await stack.enter_async_context(child("stress", role, url, report, number))
            for number, (role, report) in enumerate(zip(ROLES, reports, strict=True))
        ]
        tell(processes)
        # How long it lasts: nothing is waited for but trouble.
        await asyncio.sleep(SECONDS)
        await eventually(lambda: deadlocks(url) >= DEADLOCKS)
        busy = [process for role, process in zip(ROLES, processes, strict=True) if role != "engine"]
        tell(busy)
        await asyncio.wait_for(asyncio.gather(*[process.wait() for process in busy]), 60)
        for receipt in await watching.signal([job.id for job in jobs], STOP):
            receipts.append({"job_id": receipt.job_id, "signal_id": receipt.signal_id, "version": receipt.version})
            receipts[-1] |= {"outcome": receipt.outcome, "payload": STOP, "key": None, "client": None}

        async def settled():
            async with pool.connection() as connection:
                found = await connection.execute(
                    "SELECT count(*) FROM oban_jobs WHERE state NOT IN ('completed', 'cancelled', 'discarded')"
                )
                return await found.fetchone() == (0,)

        await eventually(settled, timeout=120)
        tell(processes[:2])
        await asyncio.gather(*[process.wait() for process in processes])
        for number, report in enumerate(reports):
            told = json.loads(report.read_text())
            met += Counter(told["met"])
            receipts += [receipt | {"client": number} for receipt in told["receipts"]]
        histories = {job.id: await watching.ledger.history(job.id) for job in jobs}
        ended = {job.id: await watching.get_job(job.id) for job in jobs}
    async with open_ledger(url, read_only=True) as ledger:
        report = await ledger.verify()
        assert report.ok, str(report)
        for job_id, history in histories.items():
            assert await ledger.state(job_id) == fold(job_id, history)
    completed = {job_id: job for job_id, job in ended.items() if job is not None and job.state == "completed"}
    # Those that were left alone are among them.
    assert {job.id for job in jobs[:10]} <= completed.keys()
    return met, receipts, histories, {job_id: decode_recorded(job.meta["return"]) for job_id, job in completed.items()}


def deadlocks(url):
    with psycopg.connect(url, autocommit=True) as connection:
        [found] = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    return found


def tell(processes):
    for process in processes:
        process.stdin.write(b"go\n")


def every_delivery_has_one_receipt(receipts, histories):
    new = [receipt for receipt in receipts if receipt["outcome"] in ("woken", "live", "buffered")]
    for receipt in new:
        event = histories[receipt["job_id"]][receipt["version"] - 1]
        assert (event.kind, event.signal_id, event.outcome) == ("delivered", receipt["signal_id"], receipt["outcome"])
        assert event.payload == receipt["payload"]
    delivered = Counter(
        (job_id, event.signal_id)
        for job_id, events in histories.items()
        for event in events
        if event.kind == "delivered"
    )
    assert delivered == Counter((receipt["job_id"], receipt["signal_id"]) for receipt in new)


def every_key_was_delivered_once(receipts, histories):
    for job_id, history in histories.items():
        by_key = {event.key: event for event in history if event.kind == "delivered" and event.key is not None}
        assert len(by_key) == sum(event.kind == "delivered" and event.key is not None for event in history)
        for receipt in receipts:
            if receipt["job_id"] == job_id and receipt["key"] is not None and receipt["outcome"] != "ignored":
                first = by_key[receipt["key"]]
                assert (receipt["signal_id"], receipt["version"]) == (first.signal_id, first.version)


def runs_of(history):
    runs = defaultdict(list)
    for event in history:
        runs[event.run].append(event)
    return list(runs.values())


def outcomes_of(run):
    """What the waits of a run gave, in order."""
    payloads = {event.signal_id: event.payload for event in run if event.kind == "delivered"}
    return [
        "timeout" if event.kind == "timed_out" else payloads[event.signal_id]
        for event in run
        if event.kind in ("consumed", "timed_out")
    ]


def nothing_was_lost(run):
    """A run consumes what it was sent, first in first out; one that completed has left nothing."""
    delivered = [event.signal_id for event in run if event.kind == "delivered" and event.channel is None]
    consumed = [event.signal_id for event in run if event.kind == "consumed"]
    assert consumed == delivered[: len(consumed)]
    if run[-1].kind == "closed" and run[-1].cause == "completed":
        assert consumed == delivered


def count_what_was_met(met, receipts, histories):
    met.update(receipt["outcome"] for receipt in receipts)
    first_of = defaultdict(set)
    for receipt in receipts:
        if receipt["key"] is not None and receipt["outcome"] in ("woken", "live", "buffered"):
            first_of[receipt["client"]].add((receipt["job_id"], receipt["key"]))
    told = {
        (receipt["job_id"], receipt["key"], receipt["client"]) for receipt in receipts if receipt["key"] is not None
    }
    met["both clients"] = sum(
        any((job, key, other) in told for other in first_of if other != client)
        for client, keys in first_of.items()
        for job, key in keys
    )
    for history in histories.values():
        met.update(event.kind for event in history)
        met["another run"] += len(runs_of(history)) > 1
        for run in runs_of(history):
            pending = 0
            for event in run:
                if event.kind in ("delivered", "consumed") and event.channel is None:
                    pending += 1 if event.kind == "delivered" else -1
                met["caught by the snooze"] += event.kind == "snoozed" and pending > 0
            met["ended with its run"] += run[-1].kind == "closed" and pending > 0
            for one, other in itertools.pairwise([event for event in run if event.kind in ("awaited", "snoozed")]):
                same = (one.channel, one.ordinal) == (other.channel, other.ordinal)
                met["superseded"] += same and one.kind == "awaited" and one.execution != other.execution
            last = [event for event in run if event.kind != "delivered"][-2:]
            met["cancelled while executing"] += (
                len(last) == 2
                and last[0].kind != "snoozed"
                and last[1].kind == "closed"
                and last[1].cause == "cancelled"
            )
