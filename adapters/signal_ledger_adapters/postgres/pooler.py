"""Connections behind a pooler of transactions, such as PgBouncer: each transaction may run on another server's session.

So nothing may be left in a session: no settings, and no prepared statements. A statement is prepared and run in two
steps, which must not be torn apart either: outside of a transaction each gets one of its own.
"""

from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy.engine import URL

PARAMETER = "statement_cache_size"
"""The parameter of a URL that says so, if it is 0: what drivers call what must be switched off there."""

_TRIES = 3


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that leaves nothing behind."""

    async def fetch(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as asyncpg's, and below
        """Run a query."""
        return await self._alone(super().fetch, arguments, options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Run a query for its first row."""
        return await self._alone(super().fetchrow, arguments, options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Run a query for the first value of its first row."""
        return await self._alone(super().fetchval, arguments, options)

    async def _alone(self, run: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401
        if self.is_in_transaction():
            return await run(*arguments, **options)
        limits = "".join(f"; SET LOCAL {name} = {value}" for name, value in unlimited(self).items())
        # In one go; and what is begun like this, a driver that fails or is cancelled leaves to be cut or rolled back.
        await self.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED{limits}")
        try:
            answer = await run(*arguments, **options)
        except Exception:
            if not self.is_closed():
                await self.execute("ROLLBACK")
            raise
        await self.execute("COMMIT")
        return answer


def unlimited(driver: asyncpg.Connection) -> dict[str, str]:
    """Return the settings that lift the database's time limits on statements."""
    settings = {"statement_timeout": "0", "lock_timeout": "0"}
    if driver.get_server_version() >= (17,):
        settings["transaction_timeout"] = "0"
    return settings


def is_behind_pooler(url: URL) -> bool:
    """Say whether a URL leads to a pooler.

    Raises:
        ValueError: The parameter has another value than 0.
    """
    value = url.query.get(PARAMETER)
    if value not in (None, "0"):
        raise ValueError(f"url: expected {PARAMETER}=0 or nothing, got {value!r}")
    return value == "0"


def pooler_options() -> dict[str, Any]:
    """Return what SQLAlchemy's dialect needs for such connections."""
    return {
        "connection_class": PooledConnection,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        # Unnamed: gone with the next one, and nothing to clash with.
        "prepared_statement_name_func": lambda: "",
    }


async def is_direct(driver: asyncpg.Connection) -> bool:
    """Say whether a connection leads to the server itself: poolers invent process ids of their own."""
    # In one message, since two may go to two sessions.
    return await _is_so(driver, f"pg_backend_pid() = {driver.get_server_pid()}")


async def share_sessions(one: asyncpg.Connection, other: asyncpg.Connection) -> bool:
    """Say whether what is set on a connection is found on another one, or is not found again on the same."""
    token = uuid4().hex
    await one.execute(f"SET signal_ledger.session = '{token}'")
    is_set = f"coalesce(current_setting('signal_ledger.session', true), '') = '{token}'"
    try:
        for _ in range(_TRIES):
            for driver, expected in ((other, f"NOT {is_set}"), (one, is_set)):
                if not await _is_so(driver, expected):
                    return True
        return False
    finally:
        await one.execute("RESET signal_ledger.session")


async def _is_so(driver: asyncpg.Connection, condition: str) -> bool:
    try:
        await driver.execute(f"DO $$ BEGIN IF NOT ({condition}) THEN RAISE EXCEPTION ''; END IF; END $$")
    except asyncpg.RaiseError:
        return False
    return True
