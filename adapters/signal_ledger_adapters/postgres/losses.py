"""Faults that say nothing about a call, but that the database cannot be reached, or not by us, or not now."""

import asyncpg

from signal_ledger.ports import StoreUnavailableError

LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
)
"""Nobody knows what became of a call, or it never began: on another connection, or later, it may succeed."""


def unavailable(error: Exception) -> StoreUnavailableError:
    """Say so to callers, with the fault as the cause."""
    # Those that are ValueErrors, too, quote what they were given, which may be a payload.
    text = "" if isinstance(error, ValueError) else f": {str(error).partition('\n')[0]}"
    told = StoreUnavailableError(f"the database could not be reached: {type(error).__name__}{text}")
    told.__cause__ = error
    return told
