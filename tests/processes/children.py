"""Processes of tests: each says that it is ready, and ends when its standard input closes."""

import asyncio
import contextlib
import sys


@contextlib.asynccontextmanager
async def child(module, *arguments, ends_with=0):
    """Start ``python -m tests.processes.<module>`` and yield it when it is ready; it must end as expected."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.processes.{module}",
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 30) == ends_with
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
