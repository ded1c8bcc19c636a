"""A nursery of processes to break: ``python -m tests.faults.nursery`` forks one for each order that it reads.

An order is a line of JSON, ``{"role": name, ...}``. The child tells its pid and waits for a line, so that a tracer can
be attached first; then it plays its role. The nursery tells its exit code, negative for a signal. Everything is
imported, and was done once, before the fork: so a child costs milliseconds and makes none but its own system calls.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.faults import roles
from tests.faults.threads import get_ahead, write_down_threads


def read_line():
    """Read a line and no byte more: the next line may be for somebody else."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    return line.decode()


def play(role, threads=None, ahead=None, **options):
    status = 1
    try:
        print(os.getpid(), flush=True)
        read_line()
        if threads is not None:
            write_down_threads(threads)
        if ahead is not None:
            get_ahead(*ahead)
        asyncio.run(getattr(roles, role)(**options))
        status = 0
    finally:
        # Without what the interpreter does at its end: the sockets and pipes here are the nursery's.
        os._exit(status)


def warm_up():
    """Have all modules loaded that are loaded when they are first needed, and all caches filled."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(roles.rehearse(Path(folder)))


def main():
    warm_up()
    print("ready", flush=True)
    while line := read_line():
        pid = os.fork()
        if not pid:
            play(**json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    sys.exit(main())
