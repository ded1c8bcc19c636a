"""A ledger on PostgreSQL, without an engine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from signal_ledger.codec import Limits
from signal_ledger.delivery import Sender
from signal_ledger.ledger import Ledger
from signal_ledger_adapters.given import new_id
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.installed import find_names
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore


@asynccontextmanager
async def open_postgres_ledger(
    url: str, *, read_only: bool, limits: Limits, schema: str | None, timeout_s: float
) -> AsyncGenerator[Ledger, None]:
    """Open a ledger on PostgreSQL; see `signal_ledger.open_ledger`."""
    parsed = to_url(url)
    names = await find_names(parsed, Names().schema if schema is None else schema, timeout_s)
    store = await PostgresStore.open(parsed, names, read_only=read_only, timeout_s=timeout_s)
    try:
        yield Ledger(store, None if read_only else Sender(store=store, new_id=new_id, limits=limits))
    finally:
        await store.close()
