"""The composition root of engines and migrations: the one place where they, stores and the core are put together.

Ledgers without an engine are put together in `sqlite_ledger` and `postgres_ledger`, which load one driver alone.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

from oban import Oban

from signal_ledger.codec import Limits
from signal_ledger.ports import EmbeddedStore
from signal_ledger.versions import SchemaVersion
from signal_ledger_adapters.given import new_id, utc_now
from signal_ledger_adapters.lite.engine import LiteConfig, LiteEngine
from signal_ledger_adapters.lite.queue import QueueConfig
from signal_ledger_adapters.oban.engine import ObanConfig, ObanEngine
from signal_ledger_adapters.oban.store import DistributedStore, Statements
from signal_ledger_adapters.oban_api import conninfo_of, is_behind_pooler, prefix_of
from signal_ledger_adapters.postgres.connection import to_url, url_of_conninfo
from signal_ledger_adapters.postgres.installed import find_installed
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
from signal_ledger_adapters.sqlite_ledger import refuse_for_sqlite

DEFAULT_QUEUES: Mapping[str, QueueConfig] = {"default": 10}


def make_lite(
    url: str,
    queues: Mapping[str, QueueConfig],
    *,
    name: str,
    shutdown_grace_period: float | None,
    live_share: float,
    prune_after: float | None,
    limits: Limits,
    clock: Callable[[], datetime] | None,
) -> LiteEngine:
    """Put an embedded engine together; see `signal_ledger.lite`."""
    now = utc_now if clock is None else clock
    config = LiteConfig(
        queues=queues,
        name=name,
        shutdown_grace_period=shutdown_grace_period,
        live_share=live_share,
        prune_after=prune_after,
        limits=limits,
        clock=now,
        new_id=new_id,
    )
    path = to_path(url)

    async def open_store() -> EmbeddedStore:
        return await SqliteStore.open(path, clock=now, create=True)

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
        refuse_for_sqlite("schema", schema, of_postgres.schema)
        refuse_for_sqlite("oban_prefix", oban_prefix, of_postgres.oban_prefix)
        refuse_for_sqlite("testing", testing, expected=False)
        return await migrate_file(to_path(url))
    return await migrate_postgres(to_url(url), Names(schema=schema, oban_prefix=oban_prefix), testing=testing)


async def schema_version(url: str, *, schema: str | None) -> SchemaVersion:
    """Return the version of a database's schema; see `signal_ledger.schema_version`."""
    if is_sqlite(url):
        refuse_for_sqlite("schema", schema, None)
        installed = await asyncio.to_thread(installed_version, to_path(url))
        return SchemaVersion(installed=installed, newest=sqlite_migrations()[-1].version)
    found = await find_installed(to_url(url), Names().schema if schema is None else schema)
    return SchemaVersion(
        installed=None if found is None else found.version,
        newest=postgres_migrations()[-1].version,
        has_own_functions=found is None or found.has_own_functions,
    )


def migration_sql(*, schema: str, oban_prefix: str) -> str:
    """Return the SQL of a fresh installation; see `signal_ledger.migration_sql`."""
    return migration_script(Names(schema=schema, oban_prefix=oban_prefix))
