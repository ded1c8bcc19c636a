"""One connection that is kept."""

import logging

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from signal_ledger_adapters.postgres.connection import connect, driver_of, set_up

logger = logging.getLogger(__name__)


class Lane:
    """A connection that is opened when it is needed, and kept.

    Args:
        engine: Where it comes from.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._driver: asyncpg.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that works, as far as that is known."""
        return self._driver is not None and not self._driver.is_closed()

    @property
    def driver(self) -> asyncpg.Connection:
        """The connection; whoever asks has opened it."""
        assert self._driver is not None  # noqa: S101 - see above
        return self._driver

    async def open(self) -> None:
        """Open a connection in the place of the one that there was, if any."""
        await self.drop()
        self._connection = connection = await connect(self._engine)
        self._driver = driver = await driver_of(connection)
        try:
            await set_up(driver, is_lane=True)
        except BaseException:
            # Without its settings it would be used for ever.
            driver.terminate()
            raise

    def terminate(self) -> bool:
        """Cut the connection, if there is one, without waiting for anything; return whether there is."""
        if self._driver is not None:
            self._driver.terminate()
        return self._driver is not None

    async def drop(self) -> None:
        """Let go of a connection that may be broken."""
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            try:
                await connection.invalidate()
                await connection.close()
            except Exception:  # noqa: BLE001 - it was broken already
                logger.debug("a broken connection could not be closed")
