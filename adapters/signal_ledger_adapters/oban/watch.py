"""What keeps an attached engine in touch with the database: hints, and a look every second for those that got lost."""

import asyncio
import logging
from typing import Any
from uuid import uuid4

from oban import Oban

from signal_ledger.names import JobId
from signal_ledger.telemetry.names import RELAYED
from signal_ledger.telemetry.registry import execute, observed
from signal_ledger_adapters.oban.attachment import Attachment
from signal_ledger_adapters.oban.store import DistributedStore
from signal_ledger_adapters.oban_api import listen, notify, retry_acknowledgements, unlisten

logger = logging.getLogger(__name__)

CHANNEL = "signal_ledger"
"""Where the store sends hints, as Oban's notifier names it."""

LOOK_EVERY_S = 1.0
"""How often live waits are looked after, hints or no hints."""

RELAY_EVERY_S = 1.0
"""How often stored signals are looked for, hints or no hints (promise D8)."""

_TEST_EVERY_S = 0.2
_TEST_S = 2.0


class Watch:
    """Passes hints on to live waits, and asks for them every second; relays signals that callers have stored.

    Args:
        oban: The Oban.
        attachment: Who waits.
        store: Whom to ask.
    """

    def __init__(self, oban: Oban, attachment: Attachment, store: DistributedStore) -> None:
        self._oban = oban
        self._attachment = attachment
        self._store = store
        self._test = str(uuid4())
        self._test_arrived = asyncio.Event()
        self._is_something_stored = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen and to look."""
        self._token = await listen(self._oban, CHANNEL, self._on_hint)
        self._tasks = [
            asyncio.create_task(self._look(), name="signal-ledger-look"),
            asyncio.create_task(self._relay(), name="signal-ledger-relay"),
            asyncio.create_task(self._test_hints(), name="signal-ledger-self-test"),
        ]

    async def stop(self) -> None:
        """End that."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await unlisten(self._oban, self._token)

    def _on_hint(self, _channel: str, payload: dict[str, Any]) -> None:
        for job_id in payload.get("jobs", ()):
            self._attachment.give_hint(JobId(job_id))
        if "relay" in payload:
            self._is_something_stored.set()
        if payload.get("test") == self._test:
            self._test_arrived.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            retry_acknowledgements(self._oban)
            live = self._attachment.live
            if not live:
                continue
            try:
                for job_id in await self._store.look(live):
                    self._attachment.give_hint(job_id)
            except Exception as error:  # noqa: BLE001 - told, and tried again in a second
                logger.warning("live waits could not be looked after; trying again: %s", error)

    async def _relay(self) -> None:
        while True:
            await _set_within(self._is_something_stored, RELAY_EVERY_S)
            self._is_something_stored.clear()
            try:
                relayed = await self._store.relay()
            except Exception as error:  # noqa: BLE001 - told, and tried again in a second
                logger.warning("stored signals could not be relayed; trying again: %s", error)
            else:
                if relayed and RELAYED in observed:
                    execute(RELAYED, {"count": relayed})

    async def _test_hints(self) -> None:
        """Notify ourselves, and say so if that does not arrive."""
        try:
            async with asyncio.timeout(_TEST_S):
                while not self._test_arrived.is_set():
                    # Again and again: the notifier may not listen yet.
                    await notify(self._oban, CHANNEL, {"test": self._test})
                    await _set_within(self._test_arrived, _TEST_EVERY_S)
        except TimeoutError:
            logger.warning(
                "hints do not arrive at %r (is it behind a pooler?); everything works within the polling second",
                self._attachment.name,
            )
        except Exception as error:  # noqa: BLE001 - only a test
            logger.warning("hints could not be tested: %s", error)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Return when an event is set, or when the time is up."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
