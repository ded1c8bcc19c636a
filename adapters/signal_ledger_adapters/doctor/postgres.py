"""The doctor on PostgreSQL: which checks there are, and how they are kept within their time."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
from sqlalchemy.engine import URL

from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.doctor.check import Check, finding, not_understood, note, ok
from signal_ledger_adapters.doctor.postgres_schema import (
    check_indexes,
    check_oban,
    check_rights,
    check_schema,
    check_triggers,
)
from signal_ledger_adapters.doctor.postgres_server import (
    SETTINGS,
    check_clock,
    check_hints,
    check_pooler,
    check_setting,
    check_standby,
    check_version,
)
from signal_ledger_adapters.doctor.postgres_work import (
    check_engines,
    check_outbox,
    check_repairs,
    check_transactions,
    check_waits,
)
from signal_ledger_adapters.doctor.visit import Look, Visit
from signal_ledger_adapters.postgres.asking import Asking
from signal_ledger_adapters.postgres.connection import create_engine, dispose
from signal_ledger_adapters.postgres.pooler import PARAMETER
from signal_ledger_adapters.postgres.schema import Names

_ADVICE_BY_FAULT: tuple[tuple[type[BaseException], str], ...] = (
    (asyncpg.InvalidPasswordError, "check the user and the password in the URL, in PGPASSWORD or in ~/.pgpass"),
    (asyncpg.InvalidAuthorizationSpecificationError, "check the user in the URL, and the server's pg_hba.conf"),
    (asyncpg.InvalidCatalogNameError, "check the name of the database in the URL, or create it"),
    (asyncpg.TooManyConnectionsError, "close connections that nobody needs, or raise max_connections"),
    (asyncpg.CannotConnectNowError, "wait: the server starts, or shuts down"),
    (TimeoutError, "see whether the server stands still, and whether a firewall drops what is sent to it"),
)
_ADVICE = "check the host and the port in the URL, and whether the server runs there: pg_isready tells"

# As PgBouncer says it when it cuts the connection.
_POOLER_OF_STATEMENTS = "statement pooling mode"

type _Applies = Callable[[Visit], bool]


def _always(_visit: Visit) -> bool:
    return True


def _on_primary(visit: Visit) -> bool:
    return not visit.on_standby


def _with_ledger(visit: Visit) -> bool:
    return visit.installed is not None


_CHECKS: tuple[tuple[str, _Applies, Look], ...] = (
    ("version", _always, check_version),
    ("pooler", _always, check_pooler),
    ("standby", _always, check_standby),
    *((name, _always, partial(check_setting, name)) for name in SETTINGS),
    ("clock", _always, check_clock),
    ("schema", _always, check_schema),
    ("oban", _always, check_oban),
    ("triggers", _with_ledger, check_triggers),
    ("indexes", _with_ledger, check_indexes),
    ("rights", _with_ledger, check_rights),
    ("hints", _on_primary, check_hints),
    ("repairs", _with_ledger, check_repairs),
    ("outbox", _with_ledger, check_outbox),
    ("waits", _with_ledger, check_waits),
    ("transactions", _on_primary, check_transactions),
    ("engines", _with_ledger, check_engines),
)


async def examine_database(
    url: URL, names: Names, timeout_s: float, *, says_pooler: bool
) -> AsyncGenerator[Check, None]:
    """Look a database over. Raises only what is wrong with the URL itself.

    Args:
        url: The database.
        names: Where the ledger is.
        timeout_s: How long each check may take.
        says_pooler: Whether the URL says that there is a pooler of transactions in between.
    """
    # Connections that leave nothing in a session work whatever is in between.
    engine = create_engine(url.update_query_dict({PARAMETER: "0"}), names, pools=False)
    asking = Asking(engine, timeout_s)
    try:
        async with AsyncExitStack() as stack:
            try:
                asked = await stack.enter_async_context(asking.asked())
                other = await stack.enter_async_context(asking.asked())
            except (TimeoutError, StoreUnavailableError, asyncpg.PostgresError) as error:
                yield _unreachable(error)
                return
            yield ok("connection", "the database answers")
            visit = Visit(asked, other, names, timeout_s, says_pooler=says_pooler)
            for name, applies, look in _CHECKS:
                if not applies(visit):
                    continue
                try:
                    yield await _looked(name, look, visit)
                except (TimeoutError, StoreUnavailableError) as error:
                    yield _unreachable(error, name)
                    return
    finally:
        await dispose(engine)


async def _looked(name: str, look: Look, visit: Visit) -> Check:
    try:
        with visit.asked.answers(), visit.other.answers():
            return await look(visit)
    except asyncpg.InsufficientPrivilegeError as error:
        return note(
            name,
            f"this cannot be told: {_first_line(error)}",
            "ask as a role that may read the ledger's tables and Oban's; see the rights in the reference",
        )
    except (TimeoutError, StoreUnavailableError):
        raise
    except asyncpg.PostgresError as error:
        return finding(
            name, f"expected an answer, but the database says: {_first_line(error)}", "see what the message names"
        )
    except Exception as error:  # noqa: BLE001 - what was found cannot be foreseen
        return not_understood(name, error)


def _unreachable(error: Exception, during: str | None = None) -> Check:
    """Say why there is no answer. No message of these faults holds a password or a payload."""
    cause = error.__cause__ if isinstance(error, StoreUnavailableError) else error
    advice = next((advice for fault, advice in _ADVICE_BY_FAULT if isinstance(cause, fault)), _ADVICE)
    if _POOLER_OF_STATEMENTS in str(cause):
        advice = "give the pooler pool_mode = session, or transaction with ?statement_cache_size=0 in the URL"
    found = f"expected the database to answer, but {_first_line(error)}"
    if during is None:
        return finding("connection", found, advice)
    return finding(during, f"{found}; nothing else of the database was examined", advice)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
