"""How much of the processor the client and the database's server use."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROCESSES = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Seconds of processor time.

    Args:
        client_s: Of this process.
        server_s: Of the server's processes; None where the system does not tell.
    """

    client_s: float
    server_s: float | None

    @classmethod
    def so_far(cls, postmaster: int | None = None) -> Self:
        """Read what has been used until now.

        Args:
            postmaster: The server's first process; None if there is no server.
        """
        own = resource.getrusage(resource.RUSAGE_SELF)
        return cls(client_s=own.ru_utime + own.ru_stime, server_s=None if postmaster is None else _server_s(postmaster))

    def since(self, before: "Usage") -> "Usage":
        """Return what was used between two readings."""
        return Usage(
            client_s=self.client_s - before.client_s,
            server_s=None if self.server_s is None or before.server_s is None else self.server_s - before.server_s,
        )


def resident_bytes(process: int) -> int | None:
    """Return how much memory a process has; None where the system does not tell."""
    try:
        pages = int((_PROCESSES / str(process) / "statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _server_s(postmaster: int) -> float | None:
    """Add up the first process, those that it has waited for, and those that it has now."""
    first = _fields(postmaster)
    if first is None:
        return None
    used_s = _used_s(postmaster, first) + (int(first[_WAITED_USER]) + int(first[_WAITED_SYSTEM])) / _TICKS_PER_S
    for folder in _PROCESSES.iterdir():
        fields = _fields(int(folder.name)) if folder.name.isdecimal() else None
        if fields is not None and int(fields[_PARENT]) == postmaster:
            used_s += _used_s(int(folder.name), fields)
    return used_s


# Places in /proc/<pid>/stat behind the name, which may hold spaces; see proc(5).
_PARENT, _USER, _SYSTEM, _WAITED_USER, _WAITED_SYSTEM = 1, 11, 12, 13, 14


def _fields(process: int) -> list[str] | None:
    try:
        text = (_PROCESSES / str(process) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _used_s(process: int, fields: list[str]) -> float:
    """Return the time of one process, to the nanosecond where the kernel keeps that.

    In ticks of 10 ms, what each of many connections uses in a second would be lost.
    """
    try:
        return int((_PROCESSES / str(process) / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_PER_S
