"""Processes whose clocks are not true, by libfaketime."""

import asyncio
import contextlib
import datetime as dt
import os
import sys
from pathlib import Path

import pytest

needs_faketime = pytest.mark.usefixtures("faketime")
"""The fixture is in tests/conftest.py."""

_ROOT = Path(__file__).resolve().parents[2]


def library():
    places = [
        *Path("/usr/lib").glob("*/faketime/libfaketime.so.1"),
        *Path("/usr/lib/faketime").glob("libfaketime.so.1"),
    ]
    return str(places[0])


@contextlib.asynccontextmanager
async def process(clock, module, *arguments):
    """Start an engine process whose clock is off by what a file says, such as ``+3600``. Its intervals are true."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"tests.processes.{module}", *arguments),
        cwd=_ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await started.stdout.readline() == b"ready\n"
        yield started
        started.stdin.close()
        assert await asyncio.wait_for(started.wait(), 30) == 0
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def ask(started, *words):
    started.stdin.write((" ".join(map(str, words)) + "\n").encode())
    return (await started.stdout.readline()).decode().strip()


async def signal(account, started, job, number):
    """Have a process signal a job, and note what it was told."""
    outcome, signal_id, took_s = (await ask(started, "signal", job.id, number)).split()
    account.note_told(job.id, outcome, signal_id, float(took_s), number)


async def skew_s(started):
    """Return by how much the clock of a process is ahead of the one here."""
    return float(await ask(started, "time")) - dt.datetime.now(dt.UTC).timestamp()


def check_history(history):
    """Time never runs backwards in a stream, and no timeout comes early by the log."""
    times = [event.recorded_at for event in history]
    assert times == sorted(times)
    for event in history:
        if event.kind == "timed_out":
            assert event.recorded_at > event.deadline_at
