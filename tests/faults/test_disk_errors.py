"""Disks that fail or are full: a clear error, nothing lost, and it goes on when they are well (promises D1, D6)."""

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import re
import shutil
import subprocess
import time

import pytest

from signal_ledger import DeliveryUnknown, SchemaError, open_ledger
from signal_ledger.ports import StoreUnavailableError
from tests.eventually import eventually
from tests.fault_figures import Account, Figures
from tests.faults.ledgers import acknowledged, check, make, read_notes
from tests.faults.roles import SENT
from tests.faults.strace import count_calls, sample
from tests.requirements import require_program

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
    """The nth sync or write of each thread fails once; the calls are repeated under their ids, and succeed.

    Every sync fails once, and a sample of the writes.
    """
    made = tmp_path / "made.db"
    job_ids = await make(made)
    options = {"job_ids": job_ids, "commits": commits, "checkpoint_pages": 30 if commits == "thread" else None}

    def use(n):
        path = shutil.copy(made, tmp_path / f"{n}.db")
        return {"url": f"sqlite:///{path}", "notes": str(tmp_path / f"{n}.notes"), **options}

    met = count_calls(traced, tmp_path, "send", system_call, **use(0))
    points = range(1, max(met.values()) + 1)
    faults, went_on, figures = 0, 0, Figures()
    for n in sample(points, 8) if system_call == "pwrite64" else points:
        log = tmp_path / "log"
        failing = ("-e", f"trace={system_call}", "-e", f"inject={system_call}:error={error}:when={n}")
        ended = traced.run("send", *failing, log=log, **use(n))
        injected = log.read_text().count("(INJECTED)")
        assert injected, f"{system_call} number {n} did not fail; before, threads made {dict(met)}"
        written = read_notes(tmp_path / f"{n}.notes")
        if ended == 0:
            assert len(acknowledged(written)) == SENT
        else:
            # It failed while the file was being opened.
            assert "opened" not in str(written)
        figures += await check(tmp_path / f"{n}.db", written, job_ids)
        faults += injected
        went_on += ended == 0
    assert went_on >= 5
    assert figures.unknown == 0
    figures.record(record_property, happened=faults)


@pytest.mark.parametrize("commits", ["loop", "thread"])
@pytest.mark.parametrize(
    ("system_call", "error", "words"),
    [
        ("fdatasync", "EIO", "EIO"),
        ("fdatasync", "ENOSPC", "EIO"),
        ("pwrite64", "ENOSPC", "ENOSPC"),
        ("pwrite64", "EIO", "EIO"),
        ("pwrite64", "EROFS", "EROFS"),
    ],
)
async def test_d6_a_disk_that_goes_on_failing_is_named_and_calls_go_on_when_it_is_well(
    traced, tmp_path, system_call, error, words, commits, record_property
):
    path, notes, until, log = tmp_path / "signals.db", tmp_path / "notes", tmp_path / "until", tmp_path / "log"
    job_ids = await make(path)
    url = f"sqlite:///{path}"
    # The first ones open the file.
    failing = ("-e", f"trace={system_call}", "-e", f"inject={system_call}:error={error}:when=30+")
    options = {"job_ids": job_ids, "until": str(until), "commits": commits}
    with traced.child("send_until_told", *failing, log=log, url=url, notes=str(notes), timeout=0.2, **options) as child:
        await eventually(lambda: any("error" in note for note in read_notes(notes)))
        child.release()
        known = len(acknowledged(read_notes(notes)))
        await eventually(lambda: len(acknowledged(read_notes(notes))) > known + 2)
        until.touch()
    assert child.exit_code == 0
    written = read_notes(notes)
    errors = [note for note in written if "error" in note]
    assert {note["error"] for note in errors} == {"DeliveryUnknown"}
    says = f"{re.escape(str(path))}: {WORDS[words]}"
    for note in errors:
        expected = rf"no answer from the database within 0.2 s \({says}\): .* repeat the call"
        assert re.search(expected, note["message"]), note["message"]
    assert acknowledged(written)
    figures = await check(path, written, job_ids)
    assert figures.unknown == len(errors)
    figures.record(record_property, happened=log.read_text().count("(INJECTED)"))


def mount(*arguments):
    """Mount a file system; skip the test where that is forbidden, as in most containers."""
    program = require_program("mount", "mount")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system with little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    yield folder
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["umount", "--lazy", folder], check=True)


async def test_d1_a_full_disk_is_named_and_calls_go_on_when_there_is_room(small_disk, record_property):
    path = small_disk / "signals.db"
    job_ids = await make(path)
    ballast = small_disk / "ballast"
    account = Account()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        await account.signal(ledger, job_ids[0], "before it is full")
        fill(ballast)
        for job_id in job_ids:
            with pytest.raises(DeliveryUnknown, match=WORDS["ENOSPC"]):
                for number in range(1000):
                    await account.signal(ledger, job_id, ["while it gets full", number, "x" * 10_000], timeout=0.2)
        # What was there can be read.
        assert (await ledger.verify()).events == len(account.acknowledged)
        assert (await ledger.verify()).ok
        ballast.unlink()
        for job_id in job_ids:
            await account.signal(ledger, job_id, "when there is room")
        figures = await account.figures(ledger)
        assert (await ledger.verify()).ok
    assert figures.unknown == len(job_ids)
    figures.record(record_property, happened=1)


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
    mount("--bind", small_disk, view)
    try:
        mount("-o", "remount,bind,ro", view)
        with pytest.raises(SchemaError, match="expected a file in a folder that exists and can be written"):
            async with open_ledger(f"sqlite:///{path}"):
                pass
        mount("-o", "remount,bind,rw", view)
        async with open_ledger(f"sqlite:///{path}") as ledger:
            assert (await ledger.signal(job_id, 1)).version == 1
    finally:
        subprocess.run(["umount", "--lazy", view], check=True)


class Ext4:
    """A file system in a file: unlike one in memory it can fail, and then be repaired."""

    def __init__(self, image, folder):
        self._image = image
        self.folder = folder
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(8 * 2**20)
        subprocess.run([require_program("mkfs.ext4", "e2fsprogs"), "-q", image], check=True)

    def mount(self):
        mount("-o", "loop", self._image, self.folder)

    def unmount(self, *options):
        subprocess.run(["umount", *options, self.folder], check=True)

    def fail(self):
        """Make it read-only under everything that is open, as Linux does it after an error of the disk."""
        mount("-o", "remount,abort", self.folder)

    def repair(self):
        self.unmount()
        done = subprocess.run(["e2fsck", "-f", "-y", self._image], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout
        self.mount()

    def refuse_writes(self, paths, *, are_refused):
        """Let nobody write to files any more, also not through what they have open; or let them again."""
        subprocess.run(["chattr", "+i" if are_refused else "-i", *paths], check=True)


@pytest.fixture
def ext4(tmp_path):
    file_system = Ext4(tmp_path / "image", tmp_path / "ext4")
    file_system.mount()
    yield file_system
    file_system.unmount("--lazy")


def run_elsewhere(function, *arguments):
    """Run a coroutine function in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, function, *arguments).result()


def _run(function, *arguments):
    return asyncio.run(function(*arguments))


async def fails_to_write(account, ledger, job_ids, payload):
    for job_id in job_ids:
        with pytest.raises(DeliveryUnknown, match=WORDS["EROFS"]):
            await account.signal(ledger, job_id, payload, timeout=0.1)
    # Reading goes on.
    assert (await ledger.verify()).ok
    assert [event.payload for event in await ledger.history(job_ids[0])] == ["before"]


async def test_d1_files_that_are_made_read_only_under_a_ledger_are_named_and_calls_go_on_when_they_can_be_written(
    ext4, record_property
):
    """An open file goes on taking writes after ``chmod``, and the mount of one cannot be remounted: so `chattr +i`."""
    path = ext4.folder / "signals.db"
    job_ids = await make(path)
    account = Account()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        for job_id in job_ids:
            await account.signal(ledger, job_id, "before")
        refused = subprocess.run(
            ["mount", "-o", "remount,ro", ext4.folder], capture_output=True, text=True, check=False
        )
        assert "busy" in refused.stderr, "the system lets nobody do that under an open ledger"
        files = [path, path.with_name(f"{path.name}-wal")]
        ext4.refuse_writes(files, are_refused=True)
        try:
            await fails_to_write(account, ledger, job_ids, "meanwhile")
            patient = [asyncio.create_task(account.signal(ledger, job_id, "patient")) for job_id in job_ids]
            await asyncio.sleep(0)
        finally:
            ext4.refuse_writes(files, are_refused=False)
        assert [(await task).outcome for task in patient] == ["buffered"] * len(job_ids)
        figures = await account.figures(ledger)
        assert (await ledger.verify()).ok
    assert (figures.unknown, figures.committed) == (len(job_ids), 0)
    figures.record(record_property, happened=1)


async def test_d1_a_file_system_that_turns_read_only_under_a_ledger_is_named_and_nothing_is_lost(ext4, record_property):
    """It has to be unmounted and repaired; then the file is opened again."""
    path = ext4.folder / "signals.db"
    # An engine's process keeps the file of its locks open until it ends: it must not be this one.
    job_ids = await asyncio.to_thread(run_elsewhere, make, path)
    account = Account()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        for job_id in job_ids:
            await account.signal(ledger, job_id, "before")
        ext4.fail()
        await fails_to_write(account, ledger, job_ids, "meanwhile")
    ext4.repair()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        for job_id in job_ids:
            await account.signal(ledger, job_id, "afterwards")
        figures = await account.figures(ledger)
        assert (await ledger.verify()).ok
    assert figures.unknown == len(job_ids)
    figures.record(record_property, happened=1)


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
