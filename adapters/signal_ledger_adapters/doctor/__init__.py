"""The doctor: looks a database over, and says in words what was found, what was expected, and what to do.

It changes nothing that stays, shows no payload and no password, and comes to an end whatever state the database is in.
"""

from collections.abc import AsyncGenerator

from signal_ledger.arguments import to_seconds
from signal_ledger_adapters.doctor.check import Check as Check
from signal_ledger_adapters.doctor.check import Status as Status
from signal_ledger_adapters.doctor.machine import examine_machine
from signal_ledger_adapters.doctor.postgres import examine_database
from signal_ledger_adapters.doctor.sqlite import examine_file
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.pooler import is_behind_pooler
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.sqlite.connection import is_sqlite, to_path

TIMEOUT_S = 5.0
"""How long each check may take, unless the caller says otherwise."""


def examine(url: str, *, schema: str | None = None, timeout_s: float = TIMEOUT_S) -> AsyncGenerator[Check, None]:
    """Look a database over, and the machine that this runs on. What a sick database does is found, and never raised.

    Args:
        url: The database, such as ``postgresql://localhost/app`` or ``sqlite:///signals.db``.
        schema: On PostgreSQL, the ledger's own schema; ``signal_ledger`` unless given.
        timeout_s: How long each check may take, in seconds. After one that took longer, the rest of those that need the
            database are left out.

    Returns:
        The checks that apply, as they are done. Close it (`contextlib.aclosing`) if you do not take all of them.

    Raises:
        ValueError: The URL is none, or names another database, or no file but a folder, say; the schema can be none, or
            is given for a SQLite file; or the timeout is none.
    """
    limit_s = to_seconds("timeout_s", timeout_s)
    if is_sqlite(url):
        if schema is not None:
            raise ValueError(f"schema: expected None for a SQLite file, where it means nothing, got {schema!r}")
        return _with_machine(examine_file(to_path(url), limit_s), limit_s)
    parsed, names = to_url(url), Names() if schema is None else Names(schema=schema)
    visits = examine_database(parsed, names, limit_s, says_pooler=is_behind_pooler(parsed))
    return _with_machine(visits, limit_s)


async def _with_machine(of_database: AsyncGenerator[Check, None], timeout_s: float) -> AsyncGenerator[Check, None]:
    async for check in of_database:
        yield check
    async for check in examine_machine(timeout_s):
        yield check
