"""What the database's catalogue says of a ledger: everything that an installation makes, in a form to compare."""

import psycopg

_CATALOGUE = {
    "relations": """
        SELECT c.relname, c.relkind, c.relpersistence, c.reloptions, c.relacl::text
        FROM pg_class AS c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind <> 't'
    """,
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               a.attgenerated, co.collname, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation AS co ON co.oid = a.attcollation
        WHERE c.relnamespace = %(schema)s::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
    """,
    "constraints": """
        SELECT coalesce(c.relname, t.typname), k.conname, k.contype, k.convalidated, pg_get_constraintdef(k.oid)
        FROM pg_constraint AS k
        LEFT JOIN pg_class AS c ON c.oid = k.conrelid LEFT JOIN pg_type AS t ON t.oid = k.contypid
        WHERE k.connamespace = %(schema)s::regnamespace
    """,
    "indexes": """
        SELECT c.relname, i.indisvalid, pg_get_indexdef(i.indexrelid)
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace = %(schema)s::regnamespace
    """,
    "types": """
        SELECT t.typname, t.typtype, t.typcategory FROM pg_type AS t WHERE t.typnamespace = %(schema)s::regnamespace
    """,
    "triggers": """
        SELECT t.tgname, t.tgenabled, pg_get_triggerdef(t.oid)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND c.relnamespace IN (%(schema)s::regnamespace, %(oban)s::regnamespace)
    """,
    "functions": """
        SELECT p.proname, pg_get_function_identity_arguments(p.oid), pg_get_functiondef(p.oid), p.proacl::text
        FROM pg_proc AS p WHERE p.pronamespace = %(schema)s::regnamespace
    """,
    "comments": """
        SELECT d.objsubid, d.description FROM pg_description AS d JOIN pg_class AS c ON c.oid = d.objoid
        WHERE c.relnamespace = %(schema)s::regnamespace
    """,
}


def catalogue(url, schema="signal_ledger", oban="public"):
    """Return what there is of a ledger, and its settings but for its id. The functions' text is part of it."""
    with psycopg.connect(url, autocommit=True) as connection:
        quoted = {
            name: connection.execute("SELECT quote_ident(%s)", [value]).fetchone()[0]
            for name, value in (("schema", schema), ("oban", oban))
        }
        found = {
            part: sorted(connection.execute(query, quoted).fetchall(), key=repr) for part, query in _CATALOGUE.items()
        }
        settings = psycopg.sql.SQL("SELECT version, functions, oban_prefix, testing FROM {}.settings")
        found["settings"] = connection.execute(settings.format(psycopg.sql.Identifier(schema))).fetchall()
        return found


def differences(one, other):
    """Return what only one of two catalogues has, for a message that can be read."""
    return {
        part: [row for row in one[part] if row not in other[part]]
        + [row for row in other[part] if row not in one[part]]
        for part in one
        if one[part] != other[part]
    }
