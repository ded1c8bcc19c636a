"""Doing one thing over and over from several tasks, and what that costs."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.usage import Usage

type Call = Callable[[], Awaitable[bool]]
"""Does the thing once. False: nothing was done, and nothing is left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a measurement found.

    Args:
        per_s: How often it was done a second.
        latency_ms: How long one took, the median.
        client_us: Processor time of this process for each, in microseconds.
        server_us: That of the server's processes; zero where the system does not tell.
    """

    per_s: float
    latency_ms: float
    client_us: float
    server_us: float


async def measure(
    calls: Sequence[Call], seconds: float, *, warm_s: float | None = None, postmaster: int | None = None
) -> Load:
    """Do things at the same time, each over and over, after a while of warming up.

    Args:
        calls: One for each task.
        seconds: For how long; it ends early when nothing is left to do.
        warm_s: For how long the same is done before, so that connections are open and statements prepared; None for a
            quarter of that.
        postmaster: The database's server, if its processor time is wanted.
    """
    await _repeat(calls, seconds / 4 if warm_s is None else warm_s)
    before = Usage.so_far(postmaster)
    started = time.perf_counter()
    latencies = await _repeat(calls, seconds)
    taken_s = time.perf_counter() - started
    used = Usage.so_far(postmaster).since(before)
    if not latencies:
        raise RuntimeError("nothing was left to measure after warming up")
    return Load(
        per_s=len(latencies) / taken_s,
        latency_ms=statistics.median(latencies) * 1000,
        client_us=used.client_s / len(latencies) * 1e6,
        server_us=(used.server_s or 0.0) / len(latencies) * 1e6,
    )


async def _repeat(calls: Sequence[Call], seconds: float) -> list[float]:
    latencies: list[float] = []
    ends = time.perf_counter() + seconds

    async def repeat(call: Call) -> None:
        began = time.perf_counter()
        while began < ends and await call():
            now = time.perf_counter()
            latencies.append(now - began)
            began = now

    await asyncio.gather(*[repeat(call) for call in calls])
    return latencies
