"""Statements for connections of others, in the paramstyle of psycopg."""

from signal_ledger_adapters.postgres.schema import Names

_SNOOZE = """
SELECT reply FROM ledger.snooze(
    %s::bigint[], %s::bigint[], %s::text[], %s::integer[], %s::interval[], %s::text)
"""

_RESET = "SELECT ledger.reset()"

_IDENTIFY = "SELECT ledger.identity()"


def snooze_statement(names: Names) -> str:
    """Return what puts jobs to sleep. Parameters and rows: those of the function ``snooze``."""
    return for_psycopg(names, _SNOOZE)


def reset_statement(names: Names) -> str:
    """Return what empties the ledger, if its schema was made for testing. No parameters."""
    # Without parameters psycopg leaves percent signs alone.
    return names.put_into(_RESET)


def identify_statement(names: Names) -> str:
    """Return what asks for the id of the ledger that a connection leads to. No parameters."""
    return names.put_into(_IDENTIFY)


def for_psycopg(names: Names, sql: str) -> str:
    """Put the names into a statement whose parameters are ``%s``."""
    percents = "\0"
    return names.put_into(sql.replace("%s", percents)).replace("%", "%%").replace(percents, "%s")
