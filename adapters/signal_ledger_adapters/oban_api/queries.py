"""Oban's statements on a connection of our choice."""

import copy
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from oban._query import Query
from psycopg import AsyncConnection


@asynccontextmanager
async def transaction(query: Query) -> AsyncGenerator[AsyncConnection, None]:
    """Open a transaction on a connection of Oban's pool."""
    async with query._pool.connection() as connection, connection.transaction():
        yield connection


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
