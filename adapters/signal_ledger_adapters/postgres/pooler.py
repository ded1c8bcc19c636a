"""Connections behind a pooler of transactions, such as PgBouncer: each transaction may run on another server's session.

So nothing may be left in a session: no settings, and no prepared statements. A statement is prepared and run in two
steps, which must not be torn apart either: outside of a transaction each gets one of its own.
"""

from typing import Any

import asyncpg
from sqlalchemy.engine import URL

PARAMETER = "statement_cache_size"
"""The parameter of a URL that says so, if it is 0: what drivers call what must be switched off there."""


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
        async with self.transaction(isolation="read_committed"):
            return await run(*arguments, **options)


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
