"""What the children of the nursery do. Each writes down what it was told before it does anything else."""

import asyncio
import json
import logging
import os
import sqlite3
from pathlib import Path

from oban import Job

from signal_ledger import DeliveryUnknown, lite, open_ledger
from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.sqlite import writer

# Loaded before the fork: every child would open their files, each with system calls of its own.
assert sqlite3.connect(":memory:").execute("SELECT 1")


class Notes(logging.Handler):
    """A file of lines of JSON: each is in the system's hands before the next thing is done."""

    def __init__(self, path):
        super().__init__()
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, **note):
        os.write(self.descriptor, (json.dumps(note) + "\n").encode())

    def emit(self, record):
        self.write(logged=record.getMessage())


def commit_in(place):
    """Have commits made in the event loop always, or in the thread always."""
    writer.QUICK_COMMIT_S = 1e9 if place == "loop" else 0.0
    if place == "loop":
        writer.CHECKPOINT_PAGES = 10**9


async def call(notes, ledger, number, target, *, size=10, timeout=30.0):
    """Send a signal that nobody else sends, and write down the receipts."""
    payload = {"call": number, "fill": chr(97 + number % 26) * size}
    try:
        answer = await ledger.signal(target, payload, source=f"call {number}", timeout=timeout)
    except (DeliveryUnknown, StoreUnavailableError) as error:
        notes.write(call=number, error=type(error).__name__, message=str(error))
        return False
    receipts = answer if isinstance(answer, list) else [answer]
    notes.write(call=number, acknowledged=[[one.job_id, one.signal_id, one.version] for one in receipts], size=size)
    return True


async def send(url, job_ids, notes, commits="loop", timeout=30.0, checkpoint_pages=None):
    """Send signals in several ways: to one job, to several, large ones, and many that share commits."""
    commit_in(commits)
    if checkpoint_pages is not None:
        writer.CHECKPOINT_PAGES = checkpoint_pages
    notes = Notes(notes)
    logging.getLogger("signal_ledger").addHandler(notes)
    logging.getLogger("signal_ledger_adapters").addHandler(notes)
    async with open_ledger(url) as ledger:
        notes.write(opened=True)
        one, *others = job_ids
        await call(notes, ledger, 1, one, timeout=timeout)
        await call(notes, ledger, 2, job_ids, timeout=timeout)
        await call(notes, ledger, 3, one, size=20_000, timeout=timeout)
        await asyncio.gather(
            *[call(notes, ledger, 4 + number, job_id, timeout=timeout) for number, job_id in enumerate(others)],
            call(notes, ledger, 20, job_ids, timeout=timeout),
        )
        await call(notes, ledger, 21, one, timeout=timeout)
    notes.write(closed=True)


async def send_until_told(url, job_ids, notes, timeout=0.5, until="", commits="loop"):
    """Send one signal after the other until a file is there; then one last."""
    commit_in(commits)
    notes = Notes(notes)
    async with open_ledger(url) as ledger:
        notes.write(opened=True)
        number = 0
        while not Path(until).exists():
            number += 1
            await call(notes, ledger, number, job_ids[number % len(job_ids)], timeout=timeout)
            await asyncio.sleep(0.01)
        await call(notes, ledger, number + 1, job_ids[0], timeout=30)
    notes.write(closed=True)


async def create(url, notes):
    """Make a new file and enqueue a job in it."""
    commit_in("loop")
    notes = Notes(notes)
    async with lite(url, queues={}) as engine:
        notes.write(opened=True)
        job = await engine.enqueue(Job("tests.Nobody"))
        notes.write(enqueued=job.id)
        await call(notes, engine, 1, job)
    notes.write(closed=True)
