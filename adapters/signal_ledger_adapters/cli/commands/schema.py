"""``migrate`` and ``schema-version``: the ledger's tables."""

import click

from signal_ledger_adapters.cli.exits import Exit
from signal_ledger_adapters.cli.running import Command
from signal_ledger_adapters.cli.settings import Settings, common_options, examples


@click.command(
    "migrate",
    cls=Command,
    epilog=examples(
        "signal-ledger migrate sqlite:///signals.db",
        "signal-ledger migrate --sql > ledger.sql",
    ),
)
@click.argument("database", required=False, metavar="[URL]")
@click.option("--oban-prefix", default="public", show_default=True, help="On PostgreSQL: the schema of Oban's tables.")
@click.option(
    "--sql",
    is_flag=True,
    help="On PostgreSQL: print the SQL of a fresh installation, for one transaction; change nothing.",
)
@common_options
@click.pass_obj
async def migrate(settings: Settings, database: str | None, *, oban_prefix: str, sql: bool) -> None:
    """Install or upgrade the ledger's tables.

    It may be run again and again, and by several at once. On PostgreSQL, Oban's tables must be there.
    """
    import signal_ledger
    from signal_ledger_adapters.cli.views import MIGRATED

    schema = "signal_ledger" if settings.schema is None else settings.schema
    if sql:
        click.echo(signal_ledger.migration_sql(schema=schema, oban_prefix=oban_prefix), nl=False)
        return
    settings.url = database or settings.url
    version = await signal_ledger.migrate(settings.database, schema=schema, oban_prefix=oban_prefix)
    settings.writer().record(MIGRATED, {"version": version})


@click.command("schema-version", cls=Command, epilog=examples("signal-ledger schema-version"))
@common_options
@click.pass_obj
async def schema_version(settings: Settings) -> Exit:
    """Show which version the ledger's tables have.

    Ends with 1 if it is not this library's, and with 3 if there are none.
    """
    import signal_ledger
    from signal_ledger_adapters.cli.views import SCHEMA

    found = await signal_ledger.schema_version(settings.database, schema=settings.schema)
    row = {"installed": found.installed, "newest": found.newest, "is_current": found.is_current}
    settings.writer().record(SCHEMA, row)
    if found.installed is None:
        return Exit.NOT_FOUND
    return Exit.OK if found.is_current else Exit.FINDING
