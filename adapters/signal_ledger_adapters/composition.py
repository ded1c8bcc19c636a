"""The composition root: the one place where engines, stores and the core are put together."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from oban import Oban

from signal_ledger.codec import DEFAULT_LIMITS, Limits
from signal_ledger.delivery import Sender
from signal_ledger.ledger import Ledger
from signal_ledger.names import SignalId, to_uuid
from signal_ledger.ports import EmbeddedStore
from signal_ledger.versions import SchemaVersion
from signal_ledger_adapters.lite.engine import LiteConfig, LiteEngine
from signal_ledger_adapters.lite.queue import QueueConfig
from signal_ledger_adapters.oban.engine import ObanConfig, ObanEngine
from signal_ledger_adapters.oban.store import DistributedStore, Statements
from signal_ledger_adapters.oban_api import conninfo_of, is_behind_pooler, prefix_of
from signal_ledger_adapters.postgres.asking import TIMEOUT_S
from signal_ledger_adapters.postgres.connection import to_url, url_of_conninfo
from signal_ledger_adapters.postgres.migrate import find_installed, find_names
from signal_ledger_adapters.postgres.migrate import migrate as migrate_postgres
from signal_ledger_adapters.postgres.migrate import script as migration_script
from signal_ledger_adapters.postgres.pooler import PARAMETER as POOLER_PARAMETER
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.schema import migrations as postgres_migrations
from signal_ledger_adapters.postgres.statements import identify_statement, reset_statement, snooze_statement
from signal_ledger_adapters.postgres.store import PostgresStore
from signal_ledger_adapters.sqlite.connection import is_sqlite, to_path
from signal_ledger_adapters.sqlite.migrate import installed_version, migrate_file
from signal_ledger_adapters.sqlite.migrate import migrations as sqlite_migrations
from signal_ledger_adapters.sqlite.store import SqliteStore

DEFAULT_QUEUES: Mapping[str, QueueConfig] = {"default": 10}


def new_id() -> SignalId:
    """Draw a random UUID as text: RFC 9562, version 4. A third of the time that the uuid module takes."""
    return to_uuid(os.urandom(16).hex(), version=4)


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


def make_attached(oban: Oban, *, schema: str, live_share: float, limits: Limits) -> ObanEngine:
    """Put an engine for PostgreSQL together; see `signal_ledger.attach`."""
    if not isinstance(oban, Oban):
        raise TypeError(f"oban: expected an oban.Oban, got {type(oban).__name__}")
    names = Names(schema=schema, oban_prefix=prefix_of(oban))
    statements = Statements(
        snooze=snooze_statement(names), reset=reset_statement(names), identify=identify_statement(names)
    )
    config = ObanConfig(live_share=live_share, limits=limits, statements=statements, new_id=new_id)

    async def open_store() -> DistributedStore:
        url = url_of_conninfo(await conninfo_of(oban))
        if is_behind_pooler(oban):
            url = url.update_query_dict({POOLER_PARAMETER: "0"})
        return await PostgresStore.open(url, names)

    return ObanEngine(oban, config, open_store)


async def migrate(url: str, *, schema: str, oban_prefix: str, testing: bool) -> int:
    """Bring a database's schema up to this version; see `signal_ledger.migrate`."""
    if is_sqlite(url):
        of_postgres = Names()
        _refuse_for_sqlite("schema", schema, of_postgres.schema)
        _refuse_for_sqlite("oban_prefix", oban_prefix, of_postgres.oban_prefix)
        _refuse_for_sqlite("testing", testing, expected=False)
        return await migrate_file(to_path(url))
    return await migrate_postgres(to_url(url), Names(schema=schema, oban_prefix=oban_prefix), testing=testing)


async def schema_version(url: str, *, schema: str | None) -> SchemaVersion:
    """Return the version of a database's schema; see `signal_ledger.schema_version`."""
    if is_sqlite(url):
        _refuse_for_sqlite("schema", schema, None)
        installed = await asyncio.to_thread(installed_version, to_path(url))
        return SchemaVersion(installed=installed, newest=sqlite_migrations()[-1].version)
    found = await find_installed(to_url(url), Names().schema if schema is None else schema)
    return SchemaVersion(
        installed=None if found is None else found.version,
        newest=postgres_migrations()[-1].version,
        has_own_functions=found is None or found.has_own_functions,
    )


def _refuse_for_sqlite(option: str, given: object, expected: object) -> None:
    if given != expected:
        raise ValueError(f"{option}: expected {expected!r} for a SQLite file, where it means nothing, got {given!r}")


def migration_sql(*, schema: str, oban_prefix: str) -> str:
    """Return the SQL of a fresh installation; see `signal_ledger.migration_sql`."""
    return migration_script(Names(schema=schema, oban_prefix=oban_prefix))


@asynccontextmanager
async def open_sqlite_ledger(
    url: str,
    *,
    read_only: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    schema: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncGenerator[Ledger, None]:
    """Open the ledger of a SQLite file; see `signal_ledger.open_ledger`."""
    del timeout_s  # a file needs none: it answers, or its fault is told
    _refuse_for_sqlite("schema", schema, None)
    store = await SqliteStore.open(to_path(url), clock=utc_now, read_only=read_only)
    try:
        yield Ledger(store, None if read_only else Sender(store=store, new_id=new_id, limits=limits))
    finally:
        await store.close()


@asynccontextmanager
async def open_postgres_ledger(
    url: str,
    *,
    read_only: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    schema: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncGenerator[Ledger, None]:
    """Open a ledger on PostgreSQL; see `signal_ledger.open_ledger`."""
    parsed = to_url(url)
    names = await find_names(parsed, Names().schema if schema is None else schema, timeout_s)
    store = await PostgresStore.open(parsed, names, read_only=read_only, timeout_s=timeout_s)
    try:
        yield Ledger(store, None if read_only else Sender(store=store, new_id=new_id, limits=limits))
    finally:
        await store.close()
