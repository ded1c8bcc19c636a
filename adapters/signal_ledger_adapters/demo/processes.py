"""The director's view of the other processes: started, spoken to by lines, killed."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

PATIENCE_S = 60.0
"""How long the demo waits for anything before it gives up."""


class Helper:
    """A process of the demo.

    Args:
        process: Its pipes are open.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        self.pid = process.pid
        self._process = process
        self._input = process.stdin
        self._output = process.stdout

    async def opened(self) -> None:
        """Wait until it has opened the ledger."""
        await self._line()

    async def ask(self, **arguments: object) -> dict[str, Any]:
        """Send a line, and return the line that answers it."""
        self._input.write(json.dumps(arguments).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._line())
        return answer

    async def kill(self) -> int:
        """SIGKILL it: no handler runs, nothing is cleaned up. Return its exit status."""
        self._process.kill()
        return await self._process.wait()

    async def close(self) -> int:
        """Let it stop gracefully, if it still runs. Return its exit status."""
        self._input.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._process.wait()
        except TimeoutError:
            return await self.kill()

    async def _line(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            line = await self._output.readline()
        if not line:
            raise RuntimeError(f"process {self.pid} of the demo ended with status {await self._process.wait()}")
        return line


@asynccontextmanager
async def start(module: str, url: str) -> AsyncGenerator[Helper, None]:
    """Start a process of the demo and wait until it has opened the ledger; end it on the way out."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"signal_ledger_adapters.demo.{module}",
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    helper = Helper(process)
    try:
        await helper.opened()
        yield helper
    finally:
        with suppress(ConnectionError):
            await helper.close()
