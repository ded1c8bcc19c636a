"""The ledger of a SQLite file, without an engine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from signal_ledger.codec import Limits
from signal_ledger.delivery import Sender
from signal_ledger.ledger import Ledger
from signal_ledger_adapters.given import new_id, utc_now
from signal_ledger_adapters.sqlite.connection import to_path
from signal_ledger_adapters.sqlite.store import SqliteStore


@asynccontextmanager
async def open_sqlite_ledger(
    url: str, *, read_only: bool, limits: Limits, schema: str | None, timeout_s: float
) -> AsyncGenerator[Ledger, None]:
    """Open the ledger of a SQLite file; see `signal_ledger.open_ledger`."""
    del timeout_s  # a file needs none: it answers, or its fault is told
    refuse_for_sqlite("schema", schema, None)
    store = await SqliteStore.open(to_path(url), clock=utc_now, read_only=read_only)
    try:
        yield Ledger(store, None if read_only else Sender(store=store, new_id=new_id, limits=limits))
    finally:
        await store.close()


def refuse_for_sqlite(option: str, given: object, expected: object) -> None:
    """Refuse an option that only PostgreSQL has.

    Raises:
        ValueError: It is given.
    """
    if given != expected:
        raise ValueError(f"{option}: expected {expected!r} for a SQLite file, where it means nothing, got {given!r}")
