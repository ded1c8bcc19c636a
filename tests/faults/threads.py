"""The threads of a child, by the order in which they are started; the main one is 0.

strace counts the system calls of each thread by itself. So that it meets a certain call of a certain thread, that
thread is given a lead: it makes so many calls that do nothing before its own.
"""

import contextlib
import itertools
import os
import threading
from functools import partial

_NOBODYS = 10_000
"""No open file has this descriptor."""

CALLS = {
    "pwrite64": partial(os.pwrite, _NOBODYS, b"", 0),
    "fdatasync": partial(os.fdatasync, _NOBODYS),
    "fsync": partial(os.fsync, _NOBODYS),
    "ftruncate": partial(os.ftruncate, _NOBODYS, 0),
    "unlink": partial(os.unlink, ""),
}
"""By the name of the system call: such a call, which the system refuses."""


def write_down_threads(path):
    """Write a line for each thread: its number, and the system's id of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _at_each_beginning(lambda number: os.write(descriptor, f"{number} {threading.get_native_id()}\n".encode()))


def get_ahead(thread, system_call, count):
    """Have a thread make so many system calls of a kind before it does anything."""

    def lead(number):
        if number == thread:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    CALLS[system_call]()

    _at_each_beginning(lead)


def _at_each_beginning(act):
    numbers = itertools.count(1)
    start, run = threading.Thread.start, threading.Thread.run

    def numbered_start(self):
        self.number = next(numbers)
        start(self)

    def led_run(self):
        act(self.number)
        run(self)

    threading.Thread.start, threading.Thread.run = numbered_start, led_run
    act(0)
