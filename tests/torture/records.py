"""What processes write down: one JSON line for each thing they did or saw, in a file of their own.

A line is handed to the kernel in one write, so that it survives the SIGKILL of its process. Times are those of
CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share, and of the wall clock, by which the log goes.
"""

import json
import os
import time


class Recorder:
    """Appends to one process's file."""

    def __init__(self, path):
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, what, **fields):
        record = {"what": what, "at": time.monotonic_ns(), "wall": time.time(), **fields}
        line = json.dumps(record, separators=(",", ":"))
        os.write(self._descriptor, line.encode() + b"\n")


def read(path):
    """Yield the records of a file. A process that was killed may have left its last line unfinished."""
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
