"""Connecting: SQLAlchemy makes and pools the connections, asyncpg speaks to the database."""

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from signal_ledger_adapters.postgres.pooler import (
    PARAMETER,
    PooledConnection,
    is_behind_pooler,
    pooler_options,
    unlimited,
)
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.tables import OBAN_SCHEMA, SCHEMA
from signal_ledger_adapters.this_process import OwnProcess

logger = logging.getLogger(__name__)

_CLOSE_S = 2.0

_POOL_S = 1e9

_STATEMENT_TIMEOUT_MAX_MS = 2**31 - 1

_drivers: WeakKeyDictionary[AsyncEngine, WeakSet[asyncpg.Connection]] = WeakKeyDictionary()

_BACKENDS = ("postgresql", "postgres")

# What asyncpg takes as an argument. Of a URL's other parameters it knows some that libpq has, and hands the rest to the
# server as settings, such as application_name and options.
_ARGUMENTS = frozenset(inspect.signature(asyncpg.connect).parameters) - {"host", "port"}

# What only libpq knows, and the server would refuse.
_LIBPQ_ONLY = frozenset(
    (
        *("channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssdelegation"),
        *("gssencmode", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
        *("load_balance_hosts", "max_protocol_version", "min_protocol_version", "replication", "require_auth"),
        *("requirepeer", "sslcertmode", "sslcompression", "sslcrldir", "sslkeylogfile", "sslsni", "tcp_user_timeout"),
    )
)


def to_url(url: str | URL) -> URL:
    """Return a database URL with asyncpg as its driver.

    Args:
        url: ``postgresql://user@host/database``, with or without a driver.

    Raises:
        ValueError: The URL is none, or names another database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Their messages quote what they stumbled over, which may be the password.
        raise ValueError("url: expected a database URL such as postgresql://localhost/app") from None
    if parsed.get_backend_name() not in _BACKENDS:
        raise ValueError(f"url: expected postgresql://..., got a {parsed.get_backend_name()} URL")
    return parsed.set(drivername="postgresql+asyncpg")


def url_of_conninfo(conninfo: str) -> URL:
    """Turn what libpq and psycopg understand, a URL or ``host=... dbname=...``, into a URL for asyncpg."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    user, password, database = (parts.pop(name, None) for name in ("user", "password", "dbname"))
    return URL.create("postgresql+asyncpg", username=user, password=password, database=database, query=parts)


def create_engine(url: URL, names: Names, *, pools: bool = True) -> AsyncEngine:
    """Return the engine that makes the connections.

    With ``statement_cache_size=0`` in the URL they may lead to a pooler of transactions.

    Args:
        url: The database.
        names: Where things are.
        pools: Whether connections that were given back are kept. What was kept may turn out to be dead: whoever needs
            an answer in time had better open another one.

    Raises:
        ValueError: That parameter has another value.
    """
    connect_args = pooler_options() if is_behind_pooler(url) else {}
    url = url.difference_update_query([PARAMETER])
    url, of_url = _split(url)
    # Who waits for a connection, and finds out whether it is alive, sees to the time: see asking.py.
    pool: dict[str, Any] = (
        {"pool_size": 10, "max_overflow": 10, "pool_timeout": _POOL_S} if pools else {"poolclass": NullPool}
    )
    engine = create_async_engine(url, connect_args=connect_args | of_url, isolation_level="READ COMMITTED", **pool)
    drivers: WeakSet[asyncpg.Connection] = WeakSet()
    event.listen(engine.sync_engine, "connect", lambda raw, _record: drivers.add(raw.driver_connection))
    engine = engine.execution_options(schema_translate_map={SCHEMA: names.schema, OBAN_SCHEMA: names.oban_prefix})
    _drivers[engine] = drivers
    return engine


def _split(url: URL) -> tuple[URL, dict[str, Any]]:
    """Return the URL without the parameters that are libpq's, and these in the way that asyncpg takes them."""
    parameters = {name: value for name, value in url.query.items() if name not in _ARGUMENTS}
    # Several hosts are written as the parameter with commas, and as the parameter several times.
    known = {
        name: value if isinstance(value, str) else ",".join(value)
        for name, value in parameters.items()
        if name not in _LIBPQ_ONLY
    }
    arguments: dict[str, Any] = {"dsn": f"postgresql://?{urlencode(known, quote_via=quote)}"} if known else {}
    # Zero, and less, is for ever to libpq.
    if int(str(parameters.get("connect_timeout", "0"))) > 0:
        arguments["timeout"] = float(str(parameters["connect_timeout"]))
    return url.difference_update_query(list(parameters)), arguments


def own_process() -> OwnProcess:
    """Return what tells this process from its forks, in which no connection that it opens may be used."""
    return OwnProcess("ledger", "open one in the fork with open_ledger(...)")


async def dispose(engine: AsyncEngine) -> None:
    """Close what an engine keeps, and cut what does not close soon: its server may never answer."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await engine.dispose()
    except TimeoutError:
        logger.debug("connections did not close within %g s", _CLOSE_S)
    finally:
        for driver in list(_drivers[engine]):
            driver.terminate()


def drivers_of(engine: AsyncEngine) -> WeakSet[asyncpg.Connection]:
    """Return the connections of an engine that there are."""
    return _drivers[engine]


async def connect(engine: AsyncEngine) -> AsyncConnection:
    """Take a connection from the pool, or open one. What the driver says if it cannot is not wrapped in anything."""
    try:
        return await engine.connect()
    except DBAPIError as error:
        raise error.driver_exception from None


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection, None]:
    """Have a connection for a while; see `connect`."""
    connection = await connect(engine)
    try:
        yield connection
    finally:
        await connection.close()


# What is switched off looks dear to the planner; before version 18 so dear that the server would compile such a query
# first, which takes far longer than to answer it.
_NOT_COMPILED = {"jit": "off"}

# The ledger's functions look up rows by their keys, whatever the planner thinks of tables that were small when it
# looked, and one plan will do for all.
FOR_LANES = {"plan_cache_mode": "force_generic_plan"} | _NOT_COMPILED
FOR_LANES |= {f"enable_{way}": "off" for way in ("seqscan", "bitmapscan", "mergejoin", "hashjoin")}

# Pages are read in the order of an index, whatever the planner thinks: see signal_ledger_adapters.postgres.pages.
FOR_QUESTIONS = {"enable_seqscan": "off", "enable_bitmapscan": "off"} | _NOT_COMPILED


async def set_up(
    driver: asyncpg.Connection, *, statement_timeout_s: float = 0.0, is_lane: bool = False, in_order: bool = False
) -> None:
    """Set what the lock order stands on, whatever the database's default is; the functions see to durability.

    Time limits of the database are lifted: a statement that needs longer would never succeed, however often it is tried
    again. Who waits for it has a limit, and cuts the connection. Behind a pooler all that is done in each transaction,
    since sessions are shared.

    Args:
        driver: The connection.
        statement_timeout_s: When the database ends a statement by itself, lest it works for nobody; 0 is never.
        is_lane: Whether it is kept for calls of the ledger's functions alone. Set here, their settings cost nothing; as
            settings of the functions they are a tenth of a call. Else it is kept for questions.
        in_order: Whether its next question is answered in the order of an index, never by sorting.
    """
    # To isinstance, every connection of asyncpg's is one of every class derived from it.
    if issubclass(type(driver), PooledConnection):
        await driver.execute("SELECT 1")
        return
    settings = {"default_transaction_isolation": "'read committed'"} | unlimited(driver)
    settings["statement_timeout"] = str(min(round(statement_timeout_s * 1000), _STATEMENT_TIMEOUT_MAX_MS))
    settings |= FOR_LANES if is_lane else FOR_QUESTIONS | {"enable_sort": "off" if in_order else "on"}
    await driver.execute(";".join(f"SET {name} = {value}" for name, value in settings.items()))


async def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """Return the connection below SQLAlchemy's."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, asyncpg.Connection)  # noqa: S101 - the URL says so
    return driver
