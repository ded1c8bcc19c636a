"""kill -9 of a process that writes, at every system call that writes or syncs (promises D1, D2, D8)."""

import itertools
import shutil

import pytest

from tests.fault_figures import Figures
from tests.faults.ledgers import check, make, read_notes
from tests.faults.strace import KILLED_AT, count_calls
from tests.faults.threads import CALLS


def points(counted):
    """Every system call there is: the thread, and which of its calls."""
    return [(thread, n) for thread, count in sorted(counted.items()) for n in range(1, count + 1)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("commits", ["loop", "thread"])
@pytest.mark.parametrize("system_call", CALLS)
async def test_d1_a_writer_killed_at_any_write_or_sync_loses_nothing_and_doubles_nothing(
    traced, doomed, tmp_path, system_call, commits, record_property
):
    made = tmp_path / "made.db"
    job_ids = await make(made)
    options = {"job_ids": job_ids, "commits": commits, "checkpoint_pages": 30 if commits == "thread" else None}

    def use(number):
        path = shutil.copy(made, tmp_path / f"{number}.db")
        return {"url": f"sqlite:///{path}", "notes": str(tmp_path / f"{number}.notes"), **options}

    met = points(count_calls(traced, tmp_path, "send", system_call, **use(0)))
    figures, kills = Figures(), 0
    for number, (thread, n) in enumerate(met, 1):
        ended = doomed.run("send", ahead=(thread, system_call, KILLED_AT - n), **use(number))
        assert ended == -9, f"nobody was killed at call {n} of thread {thread}"
        kills += 1
        figures += await check(tmp_path / f"{number}.db", read_notes(tmp_path / f"{number}.notes"), job_ids)
    assert kills >= {"pwrite64": 100, "fdatasync": 10}.get(system_call, 1)
    figures.record(record_property, happened=kills)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("system_call", ["pwrite64", "fdatasync", "ftruncate", "unlink"])
async def test_a_process_killed_while_it_makes_a_file_leaves_one_that_opens(
    traced, doomed, tmp_path, system_call, record_property
):
    def use(number):
        return {"url": f"sqlite:///{tmp_path}/{number}.db", "notes": str(tmp_path / f"{number}.notes")}

    met = points(count_calls(traced, tmp_path, "create", system_call, **use(0)))
    figures, kills = Figures(), 0
    for number, (thread, n) in enumerate(met, 1):
        path = tmp_path / f"{number}.db"
        ended = doomed.run("create", ahead=(thread, system_call, KILLED_AT - n), **use(number))
        assert ended == -9, f"nobody was killed at call {n} of thread {thread}"
        kills += 1
        written = read_notes(tmp_path / f"{number}.notes")
        [made] = await make(path, 1)
        enqueued = [note["enqueued"] for note in written if "enqueued" in note]
        assert made > max(itertools.chain(enqueued, [0])), "an id was drawn twice"
        figures += await check(path, written, [*enqueued, made][:1])
    figures.record(record_property, happened=kills)
