"""kill -9 of a process that writes, at every system call that writes or syncs (promises D1, D2)."""

import itertools
import shutil
from collections import Counter

import pytest

from tests.faults.ledgers import acknowledged, check, make, read_notes
from tests.faults.strace import sample


def count_calls(traced, tmp_path, role, system_call, **options):
    """Let a child live, and count its system calls of a kind: those of the busiest thread, as strace counts them."""
    log = tmp_path / "calls"
    assert traced.run(role, "-e", f"trace={system_call}", log=log, **options) == 0
    threads = Counter(line.split()[0] for line in log.read_text().splitlines() if f" {system_call}(" in line)
    assert threads, f"no {system_call} was met"
    return max(threads.values())


def killing(system_call, n):
    return ("-e", f"trace={system_call}", "-e", f"inject={system_call}:signal=KILL:when={n}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("commits", ["loop", "thread"])
@pytest.mark.parametrize("system_call", ["pwrite64", "fdatasync", "ftruncate", "unlink"])
async def test_d1_a_writer_killed_at_any_write_or_sync_loses_nothing_and_doubles_nothing(
    traced, tmp_path, system_call, commits, record_property
):
    made = tmp_path / "made.db"
    job_ids = await make(made)
    options = {"job_ids": job_ids, "commits": commits, "checkpoint_pages": 30 if commits == "thread" else None}
    kills, told, untold = 0, 0, 0

    def copy(n):
        return shutil.copy(made, tmp_path / f"{n}.db")

    counted = count_calls(
        traced, tmp_path, "send", system_call, url=f"sqlite:///{copy(0)}", notes=str(tmp_path / "0.notes"), **options
    )
    for n in sample(range(1, counted + 1)):
        path, notes = copy(n), tmp_path / f"{n}.notes"
        ended = traced.run("send", *killing(system_call, n), url=f"sqlite:///{path}", notes=str(notes), **options)
        assert ended == -9, "nobody was killed"
        kills += 1
        receipts = acknowledged(read_notes(notes))
        told += len(receipts)
        untold += await check(path, receipts, job_ids)
    record_property("kills", kills)
    record_property("acknowledged", told)
    record_property("unknown, but kept", untold)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("system_call", ["pwrite64", "fdatasync", "ftruncate"])
async def test_a_process_killed_while_it_makes_a_file_leaves_one_that_opens(traced, tmp_path, system_call):
    counted = count_calls(
        traced, tmp_path, "create", system_call, url=f"sqlite:///{tmp_path}/0.db", notes=str(tmp_path / "0.notes")
    )
    for n in sample(range(1, counted + 1)):
        path, notes = tmp_path / f"{n}.db", tmp_path / f"{n}.notes"
        ended = traced.run("create", *killing(system_call, n), url=f"sqlite:///{path}", notes=str(notes))
        assert ended == -9, "nobody was killed"
        written = read_notes(notes)
        [made] = await make(path, 1)
        enqueued = [note["enqueued"] for note in written if "enqueued" in note]
        assert made > max(itertools.chain(enqueued, [0])), "an id was drawn twice"
        await check(path, acknowledged(written), [*enqueued, made][:1])
