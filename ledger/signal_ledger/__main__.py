"""python -m signal_ledger migrate: install or upgrade the ledger's schema on PostgreSQL."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import signal_ledger
from signal_ledger.ports import StoreUnavailableError

URL_VARIABLE = "SIGNAL_LEDGER_URL"
"""Names the database, unless the command line does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for a database that cannot serve, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m signal_ledger", description=__doc__)
    parser.add_argument("--version", action="version", version=f"signal-ledger {version('signal-ledger')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    migrate = commands.add_parser("migrate", help="install or upgrade the ledger's schema on PostgreSQL")
    migrate.add_argument("url", nargs="?", help=f"the database; else {URL_VARIABLE}")
    migrate.add_argument("--schema", default="signal_ledger", help="the ledger's own schema (default: signal_ledger)")
    migrate.add_argument("--oban-prefix", default="public", help="the schema of Oban's tables (default: public)")
    migrate.add_argument(
        "--sql", action="store_true", help="print the SQL of a fresh installation, for one transaction; change nothing"
    )
    chosen = parser.parse_args(arguments)
    url = chosen.url or os.environ.get(URL_VARIABLE)
    try:
        if chosen.sql:
            print(signal_ledger.migration_sql(schema=chosen.schema, oban_prefix=chosen.oban_prefix), end="")  # noqa: T201
            return 0
        if not url:
            migrate.error(f"expected the URL of a database, as an argument or in {URL_VARIABLE}")
        migrated = asyncio.run(signal_ledger.migrate(url, schema=chosen.schema, oban_prefix=chosen.oban_prefix))
    except ValueError as error:
        return _say(error, 2)
    except (signal_ledger.SchemaError, StoreUnavailableError) as error:
        return _say(error, 1)
    except Exception as error:  # noqa: BLE001 - whatever the driver has to say; none says the password
        return _say(f"{type(error).__name__}: {error}", 1)
    print(f"the schema {chosen.schema} has version {migrated}")  # noqa: T201
    return 0


def _say(error: object, status: int) -> int:
    print(f"signal_ledger: {error}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
