"""What the children of the nursery do. Each writes down what it was told before it does anything else."""

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import time
from pathlib import Path

import aiosqlite
from oban import Job

from signal_ledger import DeliveryUnknown, lite, open_ledger
from signal_ledger.embedded.operations import RelayOutbox
from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.sqlite import writer
from tests.faults.ledgers import make, payload_of

# Loaded before the fork: every child would open their files, each with system calls of its own.
with contextlib.closing(sqlite3.connect(":memory:")) as _connection:
    _connection.execute("SELECT 1")


class Notes(logging.Handler):
    """A file of lines of JSON: each is in the system's hands before the next thing is done."""

    def __init__(self, path):
        super().__init__()
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, **note):
        os.write(self.descriptor, (json.dumps(note) + "\n").encode())

    def emit(self, record):
        self.write(logged=record.getMessage())


def commit_in(place, checkpoint_pages=None):
    """Have commits made in the event loop always, or in the thread always, and the log written back so often."""
    writer.QUICK_COMMIT_S = 1e9 if place == "loop" else 0.0
    writer.CHECKPOINT_PAGES = checkpoint_pages or 10**9


async def call(notes, ledger, number, target, *, size=10, timeout=30.0):
    """Send a signal that nobody else sends, and write down the receipts. Every other one has a key."""
    key = None if number % 2 else f"call {number}"
    jobs = target if isinstance(target, list) else [getattr(target, "id", target)]
    notes.write(began=number, jobs=jobs, size=size, key=key)
    began = time.monotonic()

    def note(**what):
        notes.write(call=number, took_s=time.monotonic() - began, **what)

    try:
        answer = await ledger.signal(
            target, payload_of(number, size), key=key, source=f"call {number}", timeout=timeout
        )
    except DeliveryUnknown as unknown:
        note(error="DeliveryUnknown", message=str(unknown), key=unknown.signal_id)
        return
    except StoreUnavailableError as error:
        note(error="StoreUnavailableError", message=str(error))
        return
    receipts = answer if isinstance(answer, list) else [answer]
    note(acknowledged=[[one.job_id, one.signal_id, one.version] for one in receipts])


async def store(notes, ledger, connection, number, target, *, ends="commit"):
    """Store a signal in a transaction with a change of the caller's own (promise D8); a fault makes it try again."""
    notes.write(began=number, jobs=target, size=10, key=f"call {number}", ends=ends)
    began = time.monotonic()
    while True:
        try:
            await connection.execute("INSERT INTO own_changes VALUES (?)", (number,))
            receipts = await ledger.signal(target, payload_of(number, 10), key=f"call {number}", conn=connection)
            await getattr(connection, ends)()
            break
        except sqlite3.Error:
            await connection.rollback()
    if ends == "commit":
        told = [[one.job_id, one.signal_id, None] for one in receipts]
        notes.write(call=number, took_s=time.monotonic() - began, acknowledged=told)


async def relay(ledger):
    """Relay what is stored, as an engine does it within a second."""
    count = 1
    while count:
        with contextlib.suppress(StoreUnavailableError):
            count = (await ledger._store.transact(RelayOutbox())).count


async def send(url, job_ids, notes, commits="loop", checkpoint_pages=None):
    """Send signals in several ways: to one job, to several, large ones, in transactions, and many that share commits.

    What is stored first is relayed here, what is stored last is left in the outbox.
    """
    commit_in(commits, checkpoint_pages)
    notes = Notes(notes)
    logging.getLogger("signal_ledger").addHandler(notes)
    logging.getLogger("signal_ledger_adapters").addHandler(notes)
    async with open_ledger(url) as ledger, aiosqlite.connect(url.removeprefix("sqlite:///")) as connection:
        notes.write(opened=True)
        one, *others = job_ids
        await call(notes, ledger, 1, one)
        await call(notes, ledger, 2, job_ids)
        await store(notes, ledger, connection, 30, job_ids[:2])
        await store(notes, ledger, connection, 31, job_ids[:1], ends="rollback")
        await relay(ledger)
        await call(notes, ledger, 3, one, size=10_000)
        await asyncio.gather(
            *[call(notes, ledger, 4 + number, job_id) for number, job_id in enumerate(others)],
            call(notes, ledger, 20, job_ids),
        )
        await store(notes, ledger, connection, 32, job_ids[1:])
        await call(notes, ledger, 21, one)
    notes.write(closed=True)


SENT = 1 + 4 + 2 + 1 + 3 + 4 + 3 + 1
"""How many signals `send` sends."""


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


async def rehearse(folder):
    """Do it all once, in a folder that is thrown away."""
    url = f"sqlite:///{folder}/signals.db"
    await create(url, folder / "notes")
    job_ids = await make(folder / "signals.db")
    await send(url, job_ids, folder / "notes")
    for name in ("signal_ledger", "signal_ledger_adapters"):
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, Notes)]
