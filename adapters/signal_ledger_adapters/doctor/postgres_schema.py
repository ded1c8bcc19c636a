"""The doctor on PostgreSQL: the ledger's schema, Oban's, and the rights of the role that asks."""

from collections.abc import Iterable

from signal_ledger.errors import SchemaError
from signal_ledger_adapters.doctor.check import Check, are, finding, note, ok, told_names
from signal_ledger_adapters.doctor.visit import Visit
from signal_ledger_adapters.postgres.installed import Installed, advice, installed_in, missing_guards, missing_triggers
from signal_ledger_adapters.postgres.schema import Names, guards, indexes, migrations, quote, triggers

OBAN_VERSION = "0.7"
"""The Oban that is built upon; see tests/test_oban_api.py."""

OBAN_COLUMNS = {
    "oban_jobs": frozenset(
        (
            *(
                "id",
                "state",
                "queue",
                "worker",
                "attempt",
                "max_attempts",
                "priority",
                "args",
                "meta",
                "tags",
                "errors",
            ),
            *("attempted_by", "inserted_at", "scheduled_at", "attempted_at", "cancelled_at", "completed_at"),
            "discarded_at",
        )
    ),
    "oban_leaders": frozenset(("name", "node", "elected_at", "expires_at")),
    "oban_producers": frozenset(("uuid", "name", "node", "queue", "meta", "started_at", "updated_at")),
}
"""Oban's tables, and the columns that it and the ledger use."""

OBAN_STATES = frozenset(
    ("available", "scheduled", "suspended", "executing", "retryable", "completed", "discarded", "cancelled")
)

type _Wanted = dict[str, tuple[str, ...]]
"""Privileges by the table, as a statement names it."""

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_READ: _Wanted = {
    f"ledger.{table}": ("SELECT",)
    for table in ("settings", "events", "waits", "repairs", "outbox", "steps", "edges", "blocks")
}
_SIGNAL: _Wanted = {
    "ledger.settings": ("SELECT",),
    "ledger.events": ("SELECT", "INSERT"),
    "ledger.waits": ("SELECT", "INSERT", "UPDATE"),
    "oban.oban_jobs": ("SELECT", "UPDATE"),
}
_WORK: _Wanted = (
    {f"ledger.{table}": _ALL for table in ("waits", "cancels", "repairs", "outbox", "steps", "edges", "ends", "blocks")}
    | {"ledger.settings": ("SELECT",), "ledger.events": ("SELECT", "INSERT")}
    | {f"oban.{table}": _ALL for table in OBAN_COLUMNS}
)

_LEDGERS = """
SELECT n.nspname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'settings' AND n.nspname <> $1
  AND EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = n.oid AND p.proname = 'job_moved')
ORDER BY 1
"""

_OWNER = """
SELECT n.nspname::text
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid JOIN pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS o ON o.oid = c.relnamespace
WHERE c.relname = 'oban_jobs' AND o.nspname = $1 AND t.tgname = 'signal_ledger_moved'
"""

_COLUMNS = """
SELECT c.relname::text, array_agg(a.attname::text)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = $1 AND c.relname = ANY ($2::text[])
GROUP BY c.relname
"""

_STATES = """
SELECT coalesce(array_agg(e.enumlabel::text), '{}')
FROM pg_enum AS e JOIN pg_type AS t ON t.oid = e.enumtypid JOIN pg_namespace AS n ON n.oid = t.typnamespace
WHERE n.nspname = $1 AND t.typname = 'oban_job_state'
"""

_INDEXES = """
SELECT i.relname::text, n.nspname::text, x.indisvalid AND x.indisready AS is_valid
FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid JOIN pg_class AS c ON c.oid = x.indrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 OR (n.nspname = $2 AND c.relname = 'oban_jobs')
ORDER BY 1
"""

# By their ids: a name would have to be looked up, which needs the right to enter the schema.
_LACKING = """
SELECT w.privilege || ' on ' || n.nspname || '.' || c.relname
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS w (schema, relation, privilege, number)
JOIN pg_namespace AS n ON n.nspname = w.schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.relation
WHERE NOT has_table_privilege(c.oid, w.privilege)
ORDER BY w.number
"""

_ROLE = """
SELECT current_user::text, has_schema_privilege(n.oid, 'USAGE'),
       current_setting('default_transaction_read_only') = 'on'
FROM pg_namespace AS n WHERE n.nspname = $1
"""


async def check_schema(visit: Visit) -> Check:
    """Check which ledger is there."""
    names = visit.names
    try:
        installed = await installed_in(visit.driver, names)
    except SchemaError as error:
        return finding("schema", str(error), "grant this role what an auditor needs; see the rights in the reference")
    if installed is None:
        return await _missing(visit)
    visit.names = Names(schema=names.schema, oban_prefix=installed.oban_prefix)
    told, newest = f"the schema {names.schema!r} has version {installed.version}", migrations()[-1].version
    if installed.version > newest:
        return finding("schema", f"{told}, newer than {newest}, which this library knows", "upgrade signal-ledger")
    if installed.version < newest:
        return finding("schema", f"{told}, expected {newest}", advice(visit.names))
    if not installed.has_own_functions:
        return finding(
            "schema",
            f"{told} and the functions of another release: a process of this one is refused when it starts",
            f"if this library is the newer one, {advice(visit.names)}; else upgrade it",
        )
    return await _examined(visit, installed, told)


async def _examined(visit: Visit, installed: Installed, told: str) -> Check:
    visit.installed = installed
    prefix = installed.oban_prefix
    owner = await visit.driver.fetchval(_OWNER, prefix)
    if owner not in (None, visit.names.schema):
        return finding(
            "schema",
            f"{told} and belongs to the Oban in {prefix!r}, whose jobs are another ledger's, in schema {owner!r}",
            f"use schema={owner!r}, or drop one of the two, and its log with it",
        )
    if installed.testing:
        return note(
            "schema", f"{told} and was made with testing=True: its log may be emptied", "nothing, if this is for tests"
        )
    return ok("schema", f"{told}, the newest that this library knows, for the Oban in {prefix!r}")


async def _missing(visit: Visit) -> Check:
    others = [name for [name] in await visit.driver.fetch(_LEDGERS, visit.names.schema)]
    told = f"there is no ledger in schema {visit.names.schema!r}"
    if others:
        return finding(
            "schema",
            f"{told}, but in {told_names([repr(other) for other in others])}",
            f"use schema={others[0]!r}, or for one more ledger {advice(visit.names)}",
        )
    return finding("schema", told, f"{advice(visit.names)}, or check the name of the database in the URL")


async def check_oban(visit: Visit) -> Check:
    """Check that Oban's tables are there, and those that fit."""
    prefix = visit.names.oban_prefix
    there = {table: set(columns) for table, columns in await visit.driver.fetch(_COLUMNS, prefix, list(OBAN_COLUMNS))}
    if missing := sorted(OBAN_COLUMNS.keys() - there.keys()):
        return finding(
            "oban",
            f"expected Oban's tables in schema {prefix!r}, but {told_names(missing)} {are(len(missing))} not there",
            "install Oban's schema (python -m oban install), or say where it is: migrate(url, oban_prefix=...)",
        )
    lacking = [f"{table}.{name}" for table, wanted in OBAN_COLUMNS.items() for name in sorted(wanted - there[table])]
    lacking += [
        f"the state {state}" for state in sorted(OBAN_STATES.difference(await visit.driver.fetchval(_STATES, prefix)))
    ]
    if lacking:
        return finding(
            "oban",
            f"expected the tables of Oban {OBAN_VERSION} in schema {prefix!r}, but {told_names(lacking)} "
            f"{are(len(lacking))} not there",
            "bring Oban's schema up to date (python -m oban install)",
        )
    return ok("oban", f"Oban's tables are there, in schema {prefix!r}")


async def check_triggers(visit: Visit) -> Check:
    """Check that the triggers are there and switched on: those on Oban's table, and those that defend the log."""
    missing = await missing_triggers(visit.driver, visit.names) + await missing_guards(visit.driver, visit.names)
    if missing:
        return finding(
            "triggers",
            f"expected all triggers to be there and switched on, but {told_names(missing)} {are(len(missing))} not",
            f"find out who has done that; {advice(visit.names)}; then `signal-ledger verify`, since the log was not "
            "defended",
        )
    return ok("triggers", f"all {len(triggers()) + len(guards())} are there and switched on")


async def check_indexes(visit: Visit) -> Check:
    """Check that the indexes are there and valid: the log's rules stand on them."""
    rows = await visit.driver.fetch(_INDEXES, visit.names.schema, visit.names.oban_prefix)
    if broken := [f"{quote(schema)}.{quote(name)}" for name, schema, is_valid in rows if not is_valid]:
        return finding(
            "indexes",
            f"expected valid indexes, but {told_names(broken)} {are(len(broken))} not: somebody who "
            "made them was interrupted",
            f"REINDEX INDEX CONCURRENTLY {broken[0]}",
        )
    if missing := sorted(indexes().difference(name for name, schema, _ in rows if schema == visit.names.schema)):
        return finding(
            "indexes",
            f"expected all indexes to be there, but {told_names(missing)} {are(len(missing))} not",
            "make them anew, as migration_sql() has them, and find out who has dropped them",
        )
    return ok("indexes", f"all {len(rows)} are there and valid")


async def check_rights(visit: Visit) -> Check:
    """Check what this role may do."""
    role, may_enter, is_read_only = await visit.driver.fetchrow(_ROLE, visit.names.schema)
    entering = [] if may_enter else [f"USAGE on schema {visit.names.schema}"]
    work, signal, read = [entering + await _lacking(visit, wanted) for wanted in (_WORK, _SIGNAL, _READ)]
    if is_read_only:
        return note(
            "rights",
            f"the role {role!r} may only read: its transactions are read-only (default_transaction_read_only)",
            "nothing, if it is an auditor's",
        )
    if not work:
        return ok("rights", f"the role {role!r} may run jobs, signal and read")
    if not signal:
        return note("rights", f"the role {role!r} may signal, and not run jobs: it lacks {told_names(work)}", _GRANT)
    if not read:
        return note("rights", f"the role {role!r} may only read: to signal it lacks {told_names(signal)}", _GRANT)
    return finding(
        "rights",
        f"expected the role {role!r} to read at least, but it lacks {told_names(read)}; to signal {told_names(signal)}",
        "grant what it needs; see the rights in the reference",
    )


_GRANT = "nothing, if it is meant so; else grant what it lacks, see the rights in the reference"


async def _lacking(visit: Visit, wanted: _Wanted) -> list[str]:
    schemas = {"ledger": visit.names.schema, "oban": visit.names.oban_prefix}
    rows = [(*thing.split("."), privilege) for thing, privileges in wanted.items() for privilege in privileges]
    lacking: Iterable[tuple[str]] = await visit.driver.fetch(
        _LACKING,
        [schemas[schema] for schema, _, _ in rows],
        [table for _, table, _ in rows],
        [last for _, _, last in rows],
    )
    return [told for [told] in lacking]
