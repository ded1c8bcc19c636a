"""Transactions of callers, for ``signal(conn=)``."""

import contextlib

import aiosqlite


@contextlib.asynccontextmanager
async def sqlite_transaction(path):
    """A transaction on a connection of its own, committed in the end. An exception rolls it back."""
    async with aiosqlite.connect(path) as connection:
        yield connection
        await connection.commit()
