"""``signal-ledger rerun`` of a program in one file: its job names a worker of ``__main__``, which prints."""

import subprocess
import sys

import pytest

from tests.cli.program import environment, run

SHOP = """
import asyncio

from oban import worker

from signal_ledger import await_signal, lite


@worker()
class Approval:
    async def process(self, job):
        print("asked for", job.args["item"])
        await await_signal(channel="approval")


async def main():
    async with lite("sqlite:///shop.db") as engine:
        job = await Approval.enqueue({"item": "desk"})
        await engine.signal(job, "approved", channel="approval")
        async for event in engine.ledger.follow():
            if event.kind == "closed":
                break


if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the program lies, and what it has left."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(SHOP)
    subprocess.run([sys.executable, "shop.py"], cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


def rerun(folder, *arguments):
    return run("rerun", *arguments, url="sqlite:///shop.db", cwd=folder)


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_what_the_worker_prints_is_kept_apart_from_an_answer_for_programs(folder, form):
    done = rerun(folder, 1, "--worker", "shop.Approval", "-o", form)
    assert (done.status, done.err) == (0, "asked for desk\n")
    [answer] = [done.json] if form == "json" else done.jsonl
    assert answer["ended"] == "returned"


def test_beside_a_table_it_is_where_it_would_be(folder):
    done = rerun(folder, 1, "--worker", "shop.Approval", "-o", "table")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("asked for desk\nRerun of shop.Approval on the history of job 1")


def test_a_worker_of_a_program_that_was_run_as_a_file_must_be_named(folder):
    done = rerun(folder, 1)
    assert (done.status, done.out) == (2, "")
    assert "expected --worker: the job's own is '__main__.Approval'" in done.err
    assert "if that was shop.py, it is --worker shop.Approval" in done.err


def test_args_that_a_history_does_not_hold_are_asked_for_by_the_name_of_the_option(folder):
    assert run("history", 1, "--save", "bare", url="sqlite:///shop.db", cwd=folder).status == 0
    done = rerun(folder, "bare", "--worker", "shop.Approval")
    assert (done.status, done.out) == (2, "")
    assert "expected --args, such as '{\"order\": 7}'" in done.err
    assert rerun(folder, "bare", "--worker", "shop.Approval", "--args", '{"item": "desk"}').err == "asked for desk\n"
