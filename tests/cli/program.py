"""The program, run as users run it: a process of its own."""

import contextlib
import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum

from signal_ledger.instants import to_text

# -P: what is in the current folder is found by the program's own doing, as by its script.
PROGRAM = [sys.executable, "-P", "-m", "signal_ledger"]
TIMEOUT_S = 60

SECRET = "swordfish"
"""In every payload, in all args and passwords: it must not be seen unless it is asked for."""

_LEFT_OUT = ("SIGNAL_LEDGER_URL", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TZ", "TERM",
             "PYTHONDONTWRITEBYTECODE")  # fmt: skip


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    return {**clean, "TZ": "Asia/Kathmandu", "TERM": "xterm-256color", **more}


@dataclass
class Done:
    """What a run came to."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def jsonl(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def csv(self):
        return list(csv.DictReader(io.StringIO(self.out)))


def run(*arguments, url=None, stdin=None, cwd=None, **variables):
    """Run it with pipes, to its end. No secret may be seen, unless payloads are asked for."""
    if url is not None:
        variables["SIGNAL_LEDGER_URL"] = url
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=b"" if stdin is None else stdin,
        capture_output=True,
        check=False,
        cwd=cwd,
        env=environment(**variables),
        timeout=TIMEOUT_S,
    )
    # newlines as they are: csv has some inside of its cells
    told = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "--payload" in arguments or SECRET not in told.out + told.err
    return told


@contextlib.contextmanager
def started(*arguments, url, **options):
    """Start it with pipes; it is killed in the end if it has not ended by itself."""
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(SIGNAL_LEDGER_URL=url),
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def ended(process):
    """Wait for its end, and return what it came to, with the output that nobody has read."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Done(process.returncode, out.decode(), err.decode())


def interrupted(process):
    process.send_signal(signal.SIGINT)
    return ended(process)


def on_terminal(*arguments, url, out=True, err=True, columns=80, keys=b"", cwd=None, **variables):
    """Run it with a terminal for its output, its errors or both; ``keys`` are typed on its standard input."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=theirs if out else subprocess.PIPE,
        stderr=theirs if err else subprocess.PIPE,
        cwd=cwd,
        env=environment(SIGNAL_LEDGER_URL=url, COLUMNS=str(columns), **variables),
    )
    os.close(theirs)
    process.stdin.write(keys)
    process.stdin.close()
    streams = {ours: b""} | {stream.fileno(): b"" for stream in (process.stdout, process.stderr) if stream is not None}
    ends, are_open = time.monotonic() + TIMEOUT_S, set(streams)
    try:
        while are_open:
            assert time.monotonic() < ends, streams
            for stream in select.select(list(are_open), [], [], 1)[0]:
                # A terminal whose other side is closed is at its end by an error.
                with contextlib.suppress(OSError):
                    if found := os.read(stream, 65536):
                        streams[stream] += found
                        continue
                are_open.discard(stream)
        status = process.wait(timeout=TIMEOUT_S)
    finally:
        process.kill()
        os.close(ours)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    shown = streams.pop(ours).decode().replace("\r\n", "\n")
    piped = b"".join(streams.values()).decode()
    return Done(status, shown if out else piped, piped if out else shown)


def plain(value):
    """Return what JSON has for a value of the library's."""
    match value:
        case datetime():
            return to_text(value)
        case Enum():
            return value.value
        case dict():
            return {("" if key is None else plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _ if is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        case _ if hasattr(value, "items"):
            return plain(dict(value.items()))
        case _:
            return value


def cell(value):
    """Return what CSV has for a value of JSON's."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, list | dict) else str(value)
