"""Processes whose system calls are counted, failed or ended in, with strace."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ALL_POINTS = "SIGNAL_LEDGER_FAULTS"
"""Set it to ``all`` to meet every point, where a run of the tests meets a sample of them."""

_ROOT = Path(__file__).resolve().parents[2]


@cache
def why_not():
    """Say why nothing can be traced here; None if it can."""
    if not shutil.which("strace"):
        return "strace is not here"
    done = subprocess.run(
        ["strace", "-f", "-e", "inject=getppid:retval=77", sys.executable, "-c", "import os; print(os.getppid())"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return None if done.stdout == "77\n" else f"strace cannot trace here: {done.stderr[-200:]}"


def require_strace():
    if reason := why_not():
        pytest.skip(reason)


def sample(points, at_most=12):
    """Return about so many of the points, evenly spread, with the first and the last; all if that is asked for."""
    points = list(points)
    if os.environ.get(ALL_POINTS) == "all" or len(points) <= at_most:
        return points
    return sorted({points[round(n * (len(points) - 1) / (at_most - 1))] for n in range(at_most)})


class Nursery:
    """See `tests.faults.nursery`."""

    def __init__(self, process):
        self._process = process

    @contextlib.contextmanager
    def child(self, role, *strace_options, log="/dev/null", **options):
        """Start a child under strace, let it go, and yield it; in the end, wait until it has ended."""
        self._tell({"role": role, **options})
        pid = int(self._process.stdout.readline())
        tracer = subprocess.Popen(
            ["strace", "-f", "-p", str(pid), "-o", str(log), *strace_options],
            stderr=subprocess.PIPE,
            text=True,
        )
        said = tracer.stderr.readline()
        assert "attached" in said, said
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
            tracer.communicate(timeout=60)

    def run(self, role, *strace_options, **options):
        """Let a child play its role to the end; return its exit code."""
        with self.child(role, *strace_options, **options) as child:
            pass
        return child.exit_code

    def _tell(self, order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


class Child:
    def __init__(self, pid, tracer):
        self.pid = pid
        self.exit_code = None
        self._tracer = tracer

    def release(self):
        """Take the tracer away: the condition has passed."""
        self._tracer.send_signal(signal.SIGINT)
        self._tracer.wait(60)


@contextlib.contextmanager
def nursery():
    """Start a nursery."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.nursery"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process)
        process.stdin.close()
        assert process.wait(30) == 0
