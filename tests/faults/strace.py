"""Processes whose system calls are counted, failed or ended in, with strace."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.faults.threads import CALLS
from tests.requirements import require_program

ALL_POINTS = "SIGNAL_LEDGER_FAULTS"
"""Set it to ``all`` to meet every point, where a run of the tests meets a sample of them."""

_ROOT = Path(__file__).resolve().parents[2]


@cache
def why_not():
    """Say why nothing can be traced here, as in some containers; None if it can."""
    done = subprocess.run(
        ["strace", "-f", "-e", "inject=getppid:retval=77", sys.executable, "-c", "import os; print(os.getppid())"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return None if done.stdout == "77\n" else f"strace cannot trace here: {done.stderr[-200:]}"


def require_strace():
    require_program("strace", "strace")
    if reason := why_not():
        pytest.skip(reason)


def sample(points, at_most=12):
    """Return so many of the points, with the first and the last, others in each run; all if that is asked for.

    `./run faults` asks for it.
    """
    points = list(points)
    if os.environ.get(ALL_POINTS) == "all" or len(points) <= at_most:
        return points
    return [points[0], *sorted(random.sample(points[1:-1], at_most - 2)), points[-1]]


class Nursery:
    """See `tests.faults.nursery`."""

    def __init__(self, process):
        self._process = process

    @contextlib.contextmanager
    def child(self, role, *strace_options, log="/dev/null", **options):
        """Start a child under strace, let it go, and yield it; in the end, wait until it has ended.

        Without options for strace nothing is attached to it.
        """
        self._tell({"role": role, **options})
        pid = int(self._process.stdout.readline())
        tracer = _attach(pid, log, strace_options) if strace_options else None
        child = Child(pid, tracer)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        try:
            yield child
            child.exit_code = int(self._process.stdout.readline())
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._process.stdout.readline()
            raise
        finally:
            if tracer is not None:
                tracer.communicate(timeout=60)

    def run(self, role, *strace_options, **options):
        """Let a child play its role to the end; return its exit code."""
        with self.child(role, *strace_options, **options) as child:
            pass
        return child.exit_code

    def _tell(self, order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


def count_calls(traced, tmp_path, role, system_call, **options):
    """Let a child live, and return how many system calls of a kind each of its threads makes, by their numbers."""
    log, threads = tmp_path / "calls", tmp_path / "threads"
    assert traced.run(role, "-e", f"trace={system_call}", log=log, threads=str(threads), **options) == 0
    numbers = {thread: int(number) for number, thread in map(str.split, threads.read_text().splitlines())}
    counted = Counter(numbers[line.split()[0]] for line in log.read_text().splitlines() if f" {system_call}(" in line)
    assert counted, f"no {system_call} was met"
    assert all(count < KILLED_AT for count in counted.values())
    return counted


class Child:
    def __init__(self, pid, tracer):
        self.pid = pid
        self.exit_code = None
        self._tracer = tracer

    def release(self):
        """Take the tracer away: the condition has passed."""
        self._tracer.send_signal(signal.SIGINT)
        self._tracer.wait(60)


def _attach(pid, log, options):
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", str(log), *options], stderr=subprocess.PIPE, text=True
    )
    said = tracer.stderr.readline()
    assert "attached" in said, said
    return tracer


KILLED_AT = 200
"""A thread of a doomed child is killed at the call of this number of any kind in `threads.CALLS`."""


@contextlib.contextmanager
def nursery(*, doomed=False):
    """Start a nursery.

    Args:
        doomed: Its children are traced from their beginning, which takes less time than to attach strace to each, and
            are killed at system call `KILLED_AT` of a thread.
    """
    calls = ",".join(CALLS)
    killing = ("-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={KILLED_AT}")
    strace = ["strace", "-f", "-o", "/dev/null", *killing] if doomed else []
    with subprocess.Popen(
        [*strace, sys.executable, "-m", "tests.faults.nursery"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process)
        process.stdin.close()
        assert process.wait(30) == 0
