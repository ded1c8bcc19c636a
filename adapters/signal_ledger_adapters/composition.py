"""The composition root: the one place where engines, stores and the core are put together."""

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from signal_ledger.codec import DEFAULT_LIMITS, Limits
from signal_ledger.delivery import Sender
from signal_ledger.ledger import Ledger
from signal_ledger.names import SignalId
from signal_ledger.ports import EmbeddedStore
from signal_ledger_adapters.lite.engine import LiteConfig, LiteEngine
from signal_ledger_adapters.lite.queue import QueueConfig
from signal_ledger_adapters.sqlite.connection import to_path
from signal_ledger_adapters.sqlite.store import SqliteStore

DEFAULT_QUEUES: Mapping[str, QueueConfig] = {"default": 10}


def new_id() -> SignalId:
    """Draw a random UUID as text: RFC 9562, version 4. A third of the time that the uuid module takes."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return SignalId(f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}")


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def make_lite(
    url: str,
    queues: Mapping[str, QueueConfig],
    *,
    name: str,
    shutdown_grace_period: float | None,
    live_share: float,
    prune_after: float | None,
    limits: Limits,
    clock: Callable[[], datetime] = utc_now,
) -> LiteEngine:
    """Put an embedded engine together; see `signal_ledger.lite`."""
    config = LiteConfig(
        queues=queues,
        name=name,
        shutdown_grace_period=shutdown_grace_period,
        live_share=live_share,
        prune_after=prune_after,
        limits=limits,
        clock=clock,
        new_id=new_id,
    )
    path = to_path(url)

    async def open_store() -> EmbeddedStore:
        return await SqliteStore.open(path, clock=clock, create=True)

    return LiteEngine(config, open_store)


@asynccontextmanager
async def open_sqlite_ledger(
    url: str, *, read_only: bool = False, limits: Limits = DEFAULT_LIMITS
) -> AsyncGenerator[Ledger, None]:
    """Open the ledger of a SQLite file; see `signal_ledger.open_ledger`."""
    store = await SqliteStore.open(to_path(url), clock=utc_now, read_only=read_only)
    try:
        yield Ledger(store, None if read_only else Sender(store=store, new_id=new_id, limits=limits))
    finally:
        await store.close()
