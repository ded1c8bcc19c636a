"""Waiting for something that other tasks or processes do: the one place where tests let time pass."""

import asyncio
import inspect
import time


async def eventually(condition, *, timeout=60.0, what=None):
    """Return what the condition gives once that is true; fail if it is not within the timeout."""
    ends = time.monotonic() + timeout
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < ends, f"not within {timeout} s: {what or inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.005)
