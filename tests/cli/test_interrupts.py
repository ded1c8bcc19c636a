"""Ctrl-C, and what goes on while the program follows or writes: nothing is left half done, and nothing is missed."""

import asyncio
import json
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg

from signal_ledger import open_ledger
from tests.cli.program import ended, interrupted, run, started
from tests.eventually import eventually
from tests.postgres.locks import held, waiting_backends

PAYLOAD = '["sent once"]'

SLOW = """
CREATE TRIGGER slow BEFORE INSERT ON signal_ledger_events BEGIN
    SELECT max(n) FROM (WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 3000000)
    SELECT n FROM numbers);
END
"""
"""Makes each event take a second or so to be written."""


def sent(site):
    history = site.ask(lambda ledger: ledger.history(site.jobs["parcel"]))
    return [event.payload for event in history].count(json.loads(PAYLOAD))


def is_locked(path):
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False


def wait_for_waiting(url):
    asyncio.run(eventually(lambda: waiting_backends(url)))


def test_a_signal_that_is_under_way_on_a_server_is_finished_when_it_is_interrupted(own_database):
    job_id, url = own_database.jobs["parcel"], own_database.url
    with started("signal", job_id, "-p", PAYLOAD, url=url) as process:
        with held(url, job_id):
            wait_for_waiting(url)
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline() == b"finishing what has begun\n"
        done = ended(process)
    assert (done.status, done.err, done.jsonl[0]["outcome"]) == (130, "", "buffered")
    assert sent(own_database) == 1


def lock_for_long(path, ends=60):
    """Wait until somebody holds the write lock and keeps it: opening the file takes it for a moment."""
    began, deadline = None, time.monotonic() + ends
    while began is None or time.monotonic() - began < 0.2:
        assert time.monotonic() < deadline
        began = (began or time.monotonic()) if is_locked(path) else None
        time.sleep(0.005)


def test_a_signal_that_is_under_way_in_a_file_is_finished_when_it_is_interrupted(own_file):
    with sqlite3.connect(own_file.path) as connection:
        connection.execute(SLOW)
    connection.close()
    with started("signal", own_file.jobs["parcel"], "-p", PAYLOAD, url=own_file.url) as process:
        lock_for_long(own_file.path)
        done = interrupted(process)
    assert (done.status, done.err) == (130, "finishing what has begun\n")
    assert done.jsonl[0]["outcome"] == "buffered"
    assert sent(own_file) == 1


def test_what_follows_the_log_misses_nothing_and_ends_at_ctrl_c(own_site):
    job_id, enough = own_site.jobs["parcel"], threading.Event()

    async def write():
        async with open_ledger(own_site.url) as ledger:
            number = 0
            while not enough.is_set():
                await ledger.signal(job_id, number, channel="counted", source=str(number))
                number += 1
        return number

    # It looks for the last events, and goes on behind them, while more are written.
    with (
        ThreadPoolExecutor() as threads,
        started("tail", "-f", "-n", 10_000, "--job", job_id, "--channel", "counted", url=own_site.url) as process,
    ):
        writing = threads.submit(asyncio.run, write())
        # Else nobody would write what is waited for below.
        writing.add_done_callback(lambda failed: failed.exception() and process.kill())
        try:
            shown = [process.stdout.readline()]
            while shown[-1] and len(shown) < 50 + json.loads(shown[0])["version"]:
                shown.append(process.stdout.readline())
        finally:
            enough.set()
        shown += [process.stdout.readline() for _ in range(writing.result() - len(shown))]
        done = interrupted(process)
    assert [json.loads(line)["source"] for line in shown] == [str(number) for number in range(len(shown))]
    assert (done.status, done.out, done.err) == (130, "", "signal-ledger: interrupted\n")


def test_what_follows_from_the_end_shows_nothing_that_was_before(own_file):
    async def write():
        async with open_ledger(own_file.url) as ledger:
            while not os.get_blocking(process.stdout.fileno()):
                await ledger.signal(own_file.jobs["parcel"], 1, channel="counted")
                await asyncio.sleep(0.05)
                if line := process.stdout.readline():
                    return line
        return None

    with started("tail", "-f", "-n", "0", "--channel", "counted", url=own_file.url) as process:
        os.set_blocking(process.stdout.fileno(), False)
        row = json.loads(asyncio.run(write()))
        assert interrupted(process).status == 130
    assert row["channel"] == "counted"


def test_an_array_that_is_followed_is_closed_in_the_end(own_file):
    with started("tail", "-f", "-n", "1", "-o", "json", url=own_file.url, bufsize=0) as process:
        shown = process.stdout.readline()
        done = interrupted(process)
    assert (done.status, len(json.loads(shown.decode() + done.out))) == (130, 1)


def test_an_interrupted_export_leaves_no_file(own_database, tmp_path):
    with psycopg.connect(own_database.url) as other:
        other.execute("LOCK TABLE signal_ledger.events")
        with started("export", "--to", tmp_path / "log", url=own_database.url) as process:
            wait_for_waiting(own_database.url)
            assert [each.name[:5] for each in tmp_path.iterdir()] == [".log."]
            done = interrupted(process)
    assert (done.status, done.out, done.err) == (130, "", "signal-ledger: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_rebuild_leaves_a_ledger_that_verifies(own_database):
    with psycopg.connect(own_database.url) as other:
        other.execute("LOCK TABLE signal_ledger.waits")
        with started("rebuild", url=own_database.url) as process:
            wait_for_waiting(own_database.url)
            done = interrupted(process)
    assert (done.status, done.out, done.err) == (130, "", "signal-ledger: interrupted\n")
    assert run("verify", url=own_database.url).status == 0
    rebuilt = run("rebuild", "-o", "json", url=own_database.url)
    assert (rebuilt.status, rebuilt.json["streams"]) == (0, 12)


def test_an_interrupted_rebuild_of_a_file_leaves_a_ledger_that_verifies(own_file):
    with sqlite3.connect(own_file.path) as connection:
        connection.execute(SLOW.replace("_events", "_waits").replace("3000000", "300000"))
    connection.close()
    with started("rebuild", url=own_file.url) as process:
        lock_for_long(own_file.path)
        done = interrupted(process)
    assert (done.status, done.out) == (130, "")
    with sqlite3.connect(own_file.path) as connection:
        connection.execute("DROP TRIGGER slow")
    connection.close()
    assert run("verify", url=own_file.url).status == 0
