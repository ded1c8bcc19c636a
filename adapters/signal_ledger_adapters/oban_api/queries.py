"""Oban's statements on a connection of our choice."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from oban._executor import AckAction
from oban._query import Query, _ack_jobs
from psycopg import AsyncConnection, AsyncPipeline
from psycopg.errors import PipelineAborted, ProgrammingError

type Acknowledge = Callable[[Query, list[AckAction]], Awaitable[list[int]]]


@asynccontextmanager
async def transaction(query: Query) -> AsyncGenerator[AsyncConnection, None]:
    """Open a transaction on a connection of Oban's pool."""
    async with query._pool.connection() as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def pipelined_transaction(query: Query) -> AsyncGenerator[AsyncConnection, None]:
    """Open a transaction on a connection of Oban's pool, and send its statements without waiting for each."""
    async with query._pool.connection() as connection, _pipeline(connection), connection.transaction():
        yield connection


def _pipeline(connection: AsyncConnection) -> AbstractAsyncContextManager[object]:
    """Return psycopg's pipeline mode, or nothing where libpq is older than that."""
    return connection.pipeline() if AsyncPipeline.is_supported() else nullcontext()


async def acknowledge_on(
    previous: Acknowledge, query: Query, connection: AsyncConnection, acks: Sequence[AckAction]
) -> list[int]:
    """Acknowledge jobs in the open transaction of a connection; see `Acknowledge`.

    Oban's own way asks and waits once for each job. Here it is asked for all of them side by side, so that the pipeline
    sends them as one, in their order.
    """
    if previous is not _ack_jobs:
        return await previous(on_connection(query, connection), list(acks))
    together: Any = _Together(connection)
    results = await asyncio.gather(
        *[previous(on_connection(query, together), [ack]) for ack in acks], return_exceptions=True
    )
    failures = [result for result in results if isinstance(result, BaseException)]
    if failures:
        raise min(failures, key=_distance_from_cause)
    return [job_id for result in results if not isinstance(result, BaseException) for job_id in result]


def _distance_from_cause(failure: BaseException) -> int:
    """Tell what the server said, or that it is gone, from what those behind a statement that failed are told.

    They are told that the pipeline was aborted or, if another one has read the error of their own, that there is no
    result.
    """
    if getattr(failure, "sqlstate", None) is not None:
        return 0
    return 2 if isinstance(failure, PipelineAborted | ProgrammingError) else 1


class _Together:
    """Stands where a connection is expected, for several who use it at once inside of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.execute = connection.execute

    def transaction(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()


def on_connection(query: Query, connection: AsyncConnection) -> Query:
    """Return a query whose statements run on an open connection, inside of its transaction."""
    twin = copy.copy(query)
    pool: Any = _OpenPool(connection)
    twin._pool = pool
    return twin


class _OpenPool:
    """Stands where a pool is expected, and gives the one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection, None]:
        yield self._connection
