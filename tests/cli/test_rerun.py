"""``rerun``: the worker of a recorded job, on what the database or a file holds, and in the debugger."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cli import workers
from tests.cli.program import SECRET, on_terminal, run


@pytest.fixture
def folder(tmp_path):
    """A folder with a program: workers that are as they were, changed ones, and some that cannot be imported."""
    app = tmp_path / "app"
    app.mkdir()
    shutil.copy(workers.__file__, app / "workers.py")
    source = (app / "workers.py").read_text()
    (app / "changed.py").write_text(source.replace("range(2)", "range(3)"))
    (app / "raises.py").write_text(source.replace('"votes": len(votes)', '"votes": 1 / 0'))
    (app / "loud.py").write_text(source.replace("return Record(", "raise ValueError('\\x1b[2Jloud') or ("))
    (app / "broken.py").write_text("raise RuntimeError('no settings')")
    return tmp_path


def rerun(site, folder, history, worker, *options):
    return run("rerun", history, "--worker", worker, *options, url=site.url, cwd=folder)


def test_a_worker_of_the_current_folder_is_run_again(server_site, folder):
    done = rerun(server_site, folder, server_site.jobs["purchase"], "app.workers.Purchase", "-o", "json")
    assert (done.status, done.err) == (0, "")
    told = done.json
    assert (told["ok"], told["ended"], told["worker"], told["run"]) == (True, "returned", "app.workers.Purchase", 1)
    assert (told["divergence"], told["cause"]) == (None, "completed")
    assert "got" not in told["text"]
    assert r"from '\x1b[2J\x1b]0;owned\x07' (sent in event" in told["text"]


def test_a_worker_that_does_something_else_ends_with_1(file_site, folder):
    done = rerun(file_site, folder, file_site.jobs["purchase"], "app.changed:Purchase", "-o", "table")
    assert done.status == 1
    assert "diverged: " in done.out
    assert "\x1b" not in done.out


def test_a_terminal_obeys_nothing_that_a_worker_raises(file_site, folder):
    done = rerun(file_site, folder, file_site.jobs["purchase"], "app.loud.Purchase", "-o", "table")
    assert (done.status, r"raised: ValueError: \x1b[2Jloud" in done.out, "\x1b" in done.out) == (0, True, False)


def test_runs_attempts_and_ends_are_chosen(file_site, folder):
    job_id = file_site.jobs["twice"]
    first = rerun(file_site, folder, job_id, "app.workers:Approval", "--run", 1, "--attempt", 2).jsonl[0]
    assert (first["run"], first["attempt"], first["cause"]) == (1, 2, "cancelled")
    until = rerun(file_site, folder, job_id, "app.workers:Approval", "--until", 1).jsonl[0]
    assert (until["run"], until["ended"], until["cause"]) == (1, "stopped", None)


def test_a_saved_history_is_run_again_and_without_payloads_it_says_so(file_site, folder):
    job_id = file_site.jobs["twice"]
    for name, options in {"whole": ["--payload"], "bare": []}.items():
        assert run("history", job_id, "--save", name, *options, url=file_site.url, cwd=folder).status == 0
    done = rerun(file_site, folder, "whole", "app.workers.Approval")
    assert (done.status, done.jsonl[0]["job_id"]) == (0, job_id)
    done = rerun(file_site, folder, "bare", "app.workers.Approval")
    assert (done.status, "give them by args=" in done.err) == (2, True)
    done = rerun(file_site, folder, "bare", "app.workers.Approval", "--args", "{}")
    told = done.jsonl[0]
    assert (done.status, told["ended"], "was erased" in told["text"]) == (0, "raised", True)
    done = run("rerun", "bare", cwd=folder)
    assert (done.status, "expected --worker" in done.err) == (2, True)


def test_the_jobs_own_worker_is_the_default(file_site, folder):
    done = run("rerun", file_site.jobs["purchase"], url=file_site.url, PYTHONPATH=_with_tests())
    assert (done.status, done.jsonl[0]["worker"]) == (0, "tests.cli.workers.Purchase")


def _with_tests():
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))


@pytest.mark.parametrize(
    ("worker", "cause"),
    [
        ("app.broken.Purchase", "RuntimeError: no settings"),
        ("app.workers.Nobody", "found no worker 'app.workers.Nobody'"),
        ("Purchase", "expected the path of a worker, such as app.workers.Approval, got 'Purchase'"),
    ],
)
def test_a_worker_that_is_not_there_ends_with_2_and_the_cause(file_site, folder, worker, cause):
    done = rerun(file_site, folder, file_site.jobs["purchase"], worker)
    assert (done.status, cause in done.err, "Traceback" in done.err) == (2, True, False), done.err


def test_a_history_that_is_not_there_ends_with_3_or_2(file_site, folder):
    assert rerun(file_site, folder, 404, "app.workers.Purchase").status == 3
    done = rerun(file_site, folder, "nofile", "app.workers.Purchase")
    assert (done.status, "or a file with a saved history, got 'nofile'" in done.err) == (2, True)
    done = rerun(file_site, folder, "1", "app.workers.Purchase", "--args", f"[{SECRET}]")
    assert (done.status, "expected JSON in the argument" in done.err) == (2, True)


def debug(site, folder, worker, keys):
    return on_terminal("rerun", site.jobs["purchase"], "--worker", worker, "--pdb", url=site.url, cwd=folder,
                       keys=keys, columns=200)  # fmt: skip


def test_the_debugger_stops_in_process_and_goes_on(file_site, folder):
    done = debug(file_site, folder, "app.workers.Purchase", b"p job.id, 'stopped here'\ncontinue\n")
    assert done.status == 0, done.out + done.err
    assert f"({file_site.jobs['purchase']}, 'stopped here')" in done.out
    assert "returned: a value of type Record" in done.out


def test_the_debugger_stops_where_process_raised(file_site, folder):
    done = debug(file_site, folder, "app.raises.Purchase", b"continue\np 'post mortem', len(votes)\nquit\n")
    assert "('post mortem', 2)" in done.out
    # It asked for all that the history holds: what it raises then is no divergence.
    assert (done.status, "raised: ZeroDivisionError" in done.out) == (0, True)


def test_leaving_the_debugger_ends_with_130(file_site, folder):
    done = debug(file_site, folder, "app.workers.Purchase", b"quit\n")
    assert (done.status, "signal-ledger: the debugger was left\n" in done.out, "Traceback" in done.out) == (
        130,
        True,
        False,
    ), done.out
