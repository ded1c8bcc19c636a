"""A thread that waits for the disk and for locks, so that the event loop does not."""

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger(__name__)

type _Errand = tuple[Callable[[], None], Callable[[Exception | None], None]]


class Waiter:
    """Runs one errand after the other, each in its thread, and reports to the event loop.

    Errands should spend their time waiting: what they compute competes with the event loop for the interpreter.

    Args:
        name: The thread's name.
        loop: Where the reports go.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._errands: SimpleQueue[_Errand | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, errand: Callable[[], None], report: Callable[[Exception | None], None]) -> None:
        """Run ``errand`` in the thread, then call ``report`` in the event loop with what it raised, or None."""
        self._errands.put((errand, report))

    async def close(self) -> None:
        """Finish the errands and end the thread."""
        self._errands.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        while (next_errand := self._errands.get()) is not None:
            errand, report = next_errand
            error = error_of(errand)
            try:
                self._loop.call_soon_threadsafe(report, error)
            except RuntimeError:
                logger.debug("the event loop was closed before an errand ended")


def error_of(errand: Callable[[], None]) -> Exception | None:
    """Run an errand and return what it raised."""
    try:
        errand()
    except Exception as error:  # noqa: BLE001 - reported to whom it concerns
        return error
    return None
