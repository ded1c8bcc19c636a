"""Live waits that are told to look."""

import asyncio


class Hinted:
    """Waits for hints; see `signal_ledger.ports.LiveWait`."""

    def __init__(self) -> None:
        self._hinted = asyncio.Event()

    async def hint(self, timeout_s: float) -> None:
        """Return when there may be something to take, or when the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._hinted.wait()
        except TimeoutError:
            return
        self._hinted.clear()

    def give_hint(self) -> None:
        """Let `hint` return."""
        self._hinted.set()
