"""Disks that fail or are full: a clear error, nothing lost, and it goes on when they are well (promises D1, D6)."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections import Counter

import pytest

from signal_ledger import DeliveryUnknown, SchemaError, open_ledger
from signal_ledger.ports import StoreUnavailableError
from tests.eventually import eventually
from tests.faults.ledgers import acknowledged, check, make, read_notes
from tests.faults.strace import sample

WORDS = {
    "EIO": r"expected a disk that reads, writes and syncs, but SQLite says: disk I/O error \(SQLITE_IOERR_\w+\)",
    "ENOSPC": r"expected room on the disk, but SQLite says: database or disk is full \(SQLITE_FULL\)",
    "EROFS": r"expected a disk that reads, writes and syncs, but SQLite says: disk I/O error \(SQLITE_IOERR_WRITE\)",
}
"""What a user is told. A sync that finds no room is told as an I/O error."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("commits", ["loop", "thread"])
@pytest.mark.parametrize(("system_call", "error"), [("fdatasync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC")])
async def test_d1_after_an_error_of_the_disk_every_call_goes_on(
    traced, tmp_path, system_call, error, commits, record_property
):
    """Each of the first writes or syncs fails once; the calls are repeated under their ids, and succeed."""
    made = tmp_path / "made.db"
    job_ids = await make(made)
    options = {"job_ids": job_ids, "commits": commits, "checkpoint_pages": 30 if commits == "thread" else None}
    told = Counter()
    for n in sample(range(1, 60 if system_call == "pwrite64" else 9), 8):
        path, notes, log = tmp_path / f"{n}.db", tmp_path / f"{n}.notes", tmp_path / "log"
        shutil.copy(made, path)
        failing = ("-e", f"trace={system_call}", "-e", f"inject={system_call}:error={error}:when={n}")
        ended = traced.run("send", *failing, log=log, url=f"sqlite:///{path}", notes=str(notes), **options)
        injected = "(INJECTED)" in log.read_text()
        written = read_notes(notes)
        if ended == 0:
            assert len(acknowledged(written)) == 1 + 4 + 1 + 3 + 4 + 1
            assert await check(path, acknowledged(written), job_ids) == 0
        else:
            # It failed while the file was being opened.
            assert "opened" not in str(written)
            await check(path, [], job_ids)
        told["faults"] += injected
        told["calls that went on"] += ended == 0
    assert told["faults"] >= 5
    for name, count in told.items():
        record_property(name, count)


@pytest.mark.parametrize("commits", ["loop", "thread"])
@pytest.mark.parametrize(
    ("system_call", "error", "words"),
    [
        ("fdatasync", "EIO", WORDS["EIO"]),
        ("fdatasync", "ENOSPC", WORDS["EIO"]),
        ("pwrite64", "ENOSPC", WORDS["ENOSPC"]),
        ("pwrite64", "EIO", WORDS["EIO"]),
        ("pwrite64", "EROFS", WORDS["EROFS"]),
    ],
)
async def test_d6_a_disk_that_goes_on_failing_is_named_and_calls_go_on_when_it_is_well(
    traced, tmp_path, system_call, error, words, commits
):
    path, notes, until = tmp_path / "signals.db", tmp_path / "notes", tmp_path / "until"
    job_ids = await make(path)
    url = f"sqlite:///{path}"
    # The first ones open the file.
    failing = ("-e", f"trace={system_call}", "-e", f"inject={system_call}:error={error}:when=30+")
    options = {"job_ids": job_ids, "until": str(until), "commits": commits}
    with traced.child("send_until_told", *failing, url=url, notes=str(notes), timeout=0.2, **options) as child:
        await eventually(lambda: any("error" in note for note in read_notes(notes)))
        child.release()
        known = len(acknowledged(read_notes(notes)))
        await eventually(lambda: len(acknowledged(read_notes(notes))) > known + 2)
        until.touch()
    assert child.exit_code == 0
    written = read_notes(notes)
    errors = [note for note in written if "error" in note]
    assert {note["error"] for note in errors} == {"DeliveryUnknown"}
    for note in errors:
        expected = rf"no answer from the database within 0.2 s \({re.escape(str(path))}: {words}\): .* repeat the call"
        assert re.search(expected, note["message"]), note["message"]
    assert acknowledged(written)
    await check(path, acknowledged(written), job_ids)


@pytest.fixture
def small_disk(tmp_path):
    """A file system with little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["umount", "--lazy", folder], check=True)


async def test_d1_a_full_disk_is_named_and_calls_go_on_when_there_is_room(small_disk, record_property):
    path = small_disk / "signals.db"
    [job_id] = await make(path, 1)
    ballast = small_disk / "ballast"
    async with open_ledger(f"sqlite:///{path}") as ledger:
        await ledger.signal(job_id, {"call": 1, "fill": "b" * 10})
        fill(ballast)
        with pytest.raises(DeliveryUnknown, match=WORDS["ENOSPC"]) as unknown:
            for number in range(1000):
                await ledger.signal(job_id, ["before it is full", number, "x" * 10_000], timeout=0.2)
        # What was there can be read.
        kept = await ledger.history(job_id)
        assert (await ledger.verify()).ok
        ballast.unlink()
        again = await ledger.signal(
            job_id, ["before it is full", len(kept) - 1, "x" * 10_000], key=unknown.value.signal_id
        )
        assert (again.outcome, again.version) == ("buffered", len(kept) + 1)
        assert (await ledger.verify()).ok
    record_property("acknowledged", len(kept))


async def test_a_file_that_cannot_be_opened_for_want_of_room_says_so(small_disk):
    path = small_disk / "signals.db"
    await make(path, 1)
    fill(small_disk / "ballast")
    with pytest.raises(SchemaError, match=re.escape(f"{path} cannot be used: ")):
        async with open_ledger(f"sqlite:///{path}"):
            pass
    (small_disk / "ballast").unlink()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        assert (await ledger.verify()).ok


async def test_a_file_system_that_cannot_be_written_is_named_and_the_file_opens_when_it_can(small_disk, tmp_path):
    view = tmp_path / "view"
    view.mkdir()
    path = view / "signals.db"
    [job_id] = await make(small_disk / "signals.db", 1)
    subprocess.run(["mount", "--bind", small_disk, view], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", view], check=True)
        with pytest.raises(SchemaError, match="expected a file in a folder that exists and can be written"):
            async with open_ledger(f"sqlite:///{path}"):
                pass
        subprocess.run(["mount", "-o", "remount,bind,rw", view], check=True)
        async with open_ledger(f"sqlite:///{path}") as ledger:
            assert (await ledger.signal(job_id, 1)).version == 1
    finally:
        subprocess.run(["umount", "--lazy", view], check=True)


def fill(ballast):
    """Leave no room."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    assert ballast.stat().st_size


async def test_a_file_that_was_written_over_is_named_and_hangs_nobody(tmp_path):
    """With a text editor, say, or a backup that was copied onto it: the file is the same one, and no database."""
    path = tmp_path / "signals.db"
    [job_id] = await make(path, 1)
    async with open_ledger(f"sqlite:///{path}") as ledger:
        await ledger.signal(job_id, 1)
        for file in (path, path.with_name(f"{path.name}-wal")):
            with file.open("r+b") as opened:
                opened.write(os.urandom(file.stat().st_size))
        # So that nothing is known of it in memory.
        ledger._store._writing._connection.execute("PRAGMA shrink_memory")
        started = time.monotonic()
        with pytest.raises((StoreUnavailableError, DeliveryUnknown), match="expected a whole database, which no other"):
            for _ in range(20):
                await ledger.signal(job_id, 2, timeout=0.3)
                await ledger.verify()
        assert time.monotonic() - started < 30
