"""Connections for those who read: pooled, and cut when an answer does not come in time.

A server that has been halted, or that the network has lost, answers nothing, and not to a cancel either. So nothing is
waited for but the clock: when the time is up the connection is cut, which ends whatever waits on it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from signal_ledger.errors import SchemaError
from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.postgres.connection import connect, driver_of, drivers_of, own_process, set_up
from signal_ledger_adapters.postgres.losses import LOST, unavailable
from signal_ledger_adapters.postgres.pooler import PooledConnection, is_direct, share_sessions

TIMEOUT_S = 30.0
"""How long an answer is waited for, unless the caller says otherwise."""

_PING_S = 2.0
"""How long a connection that was kept may take to show that it is alive."""

_CLOSE_S = 2.0


class Asked:
    """A connection that is being asked.

    Args:
        connection: The connection, as SQLAlchemy has it.
        driver: The same, as the driver has it.
        timeout_s: How long each answer is waited for.
    """

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection, timeout_s: float) -> None:
        self.connection = connection
        self.driver = driver
        self._timeout_s = timeout_s

    @contextmanager
    def answers(self, *, within_s: float | None = None) -> Generator[None, None, None]:
        """Wait for an answer, and cut the connection if it does not come in time, or if nobody wants it any more.

        Args:
            within_s: How long, if that is less than usual.

        Raises:
            TimeoutError: It did not come in time.
            StoreUnavailableError: The database could not be reached.
        """
        is_late = False

        def cut() -> None:
            nonlocal is_late
            is_late = True
            self.driver.terminate()

        timeout_s = self._timeout_s if within_s is None else min(self._timeout_s, within_s)
        timer = asyncio.get_running_loop().call_later(timeout_s, cut)
        try:
            yield
        except Exception as error:
            if is_late:
                raise _no_answer(self._timeout_s) from None
            told = error.driver_exception if isinstance(error, DBAPIError) else error
            if isinstance(told, (*LOST, asyncpg.QueryCanceledError)):
                raise unavailable(told) from told
            raise
        except BaseException:
            # Cancelled: the driver would wait until the server has cancelled the query, too.
            self.driver.terminate()
            raise
        finally:
            timer.cancel()

    async def each[T](self, answers: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """Iterate over answers, each of which is waited for; while one is dealt with, no time passes."""
        while True:
            with self.answers():
                try:
                    answer = await anext(answers)
                except StopAsyncIteration:
                    return
            yield answer


class Asking:
    """Questions to a database.

    Args:
        engine: Keeps the connections.
        timeout_s: How long each answer is waited for.
    """

    def __init__(self, engine: AsyncEngine, timeout_s: float) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._own_process = own_process()
        self._busy: set[asyncpg.Connection] = set()

    @asynccontextmanager
    async def asked(self, *, in_order: bool = False) -> AsyncGenerator[Asked, None]:
        """Have a connection that works, for several answers.

        Args:
            in_order: Whether they come in the order of an index, never by sorting.

        Raises:
            TimeoutError: There was none in time.
            StoreUnavailableError: The database could not be reached.
            RuntimeError: This is a fork of the process that opens the connections.
        """
        self._own_process.require()
        asked = await self._working(in_order=in_order)
        try:
            yield asked
        finally:
            self._busy.discard(asked.driver)
            await _close(asked)

    @asynccontextmanager
    async def connection(self, *, in_order: bool = False) -> AsyncGenerator[AsyncConnection, None]:
        """Have one for a single answer, for which alone it is waited; see `asked`."""
        async with self.asked(in_order=in_order) as asked:
            with asked.answers():
                yield asked.connection

    async def require_sessions(self) -> None:
        """Refuse a pooler of transactions, unless the URL tells of it: settings and statements would go astray.

        Raises:
            SchemaError: There is one.
        """
        ends_at = asyncio.get_running_loop().time() + self._timeout_s
        async with AsyncExitStack() as stack:
            one = await self._connect(ends_at)
            stack.push_async_callback(_close, one)
            with one.answers():
                # To isinstance, every connection of asyncpg's is one of every class derived from it.
                if issubclass(type(one.driver), PooledConnection) or await is_direct(one.driver):
                    return
            other = await self._connect(ends_at)
            stack.push_async_callback(_close, other)
            with one.answers(), other.answers():
                if not await share_sessions(one.driver, other.driver):
                    return
        raise SchemaError(
            "the connection leads to a pooler of transactions: expected ?statement_cache_size=0 in the URL, and of the "
            "pool of an Oban kwargs={'prepare_threshold': None}"
        )

    async def _working(self, *, in_order: bool) -> Asked:
        """Take a connection that works: what was kept may have died since."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._timeout_s
        while True:
            known = set(drivers_of(self._engine))
            asked = await self._connect(ends_at)
            # From now on, lest another question takes it for one that lies idle, and has died.
            self._busy.add(asked.driver)
            is_fresh = asked.driver not in known
            ping_s = ends_at - loop.time() if is_fresh else min(_PING_S, self._timeout_s / 4)
            try:
                with asked.answers(within_s=ping_s):
                    await set_up(asked.driver, statement_timeout_s=self._timeout_s, in_order=in_order)
            except BaseException as error:
                self._busy.discard(asked.driver)
                await _discard(asked)
                if is_fresh or not isinstance(error, TimeoutError | StoreUnavailableError):
                    raise
                if isinstance(error, TimeoutError):
                    # Those that lie beside it have most likely died with it.
                    for driver in known - self._busy:
                        driver.terminate()
            else:
                return asked

    async def _connect(self, ends_at: float) -> Asked:
        try:
            async with asyncio.timeout_at(ends_at):
                connection = await connect(self._engine)
        except TimeoutError:
            raise _no_answer(self._timeout_s) from None
        except LOST as error:
            if isinstance(error, ValueError):
                # What is wrong is the URL.
                raise
            raise unavailable(error) from error
        return Asked(connection, await driver_of(connection), self._timeout_s)


async def _discard(asked: Asked) -> None:
    asked.driver.terminate()
    with suppress(Exception):
        await asked.connection.invalidate()
    await _close(asked)


async def _close(asked: Asked) -> None:
    with suppress(Exception), asked.answers(within_s=_CLOSE_S):
        await asked.connection.close()


def _no_answer(timeout_s: float) -> TimeoutError:
    return TimeoutError(f"no answer from the database within {timeout_s:g} s")
