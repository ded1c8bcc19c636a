"""The ledger's schema on PostgreSQL: its files, with the names of the two schemas put in."""

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

# The schemas' names: before a thing's name, on their own, as texts; and what begins and ends a function's body.
_PLACEHOLDER = re.compile(r"\b(?:ledger|oban)\.(?=[a-z])|<'?(?:ledger|oban)'?>|\$\$")


_INDEXES = re.compile(r"^(CREATE|DROP)(?: UNIQUE)? INDEX (?:IF NOT EXISTS )?(?:ledger\.)?(\w+)", re.MULTILINE)

_INDEX = re.compile(r"^CREATE INDEX IF NOT EXISTS (\w+) ON (ledger\.\w+) [^;]*", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Where things are.

    Args:
        schema: The ledger's own schema.
        oban_prefix: The schema of Oban's tables.
    """

    schema: str = "signal_ledger"
    oban_prefix: str = "public"

    def __post_init__(self) -> None:
        """Check them: schemas' names are at most 63 bytes."""
        for field in ("schema", "oban_prefix"):
            name = getattr(self, field)
            if not isinstance(name, str):
                raise TypeError(f"{field}: expected a str, got {type(name).__name__}")
            if not 1 <= len(name.encode()) <= 63 or "\0" in name:
                raise ValueError(f"{field}: expected the name of a schema, 1 to 63 bytes, got {name!r}")

    def put_into(self, sql: str) -> str:
        """Replace the placeholders: ``ledger.`` and ``oban.``, ``<ledger>`` and, for a text, ``<'ledger'>``."""
        filled = {"$$": _dollars(self.schema + self.oban_prefix)}
        for placeholder, name in (("ledger", self.schema), ("oban", self.oban_prefix)):
            filled |= {
                f"{placeholder}.": f"{quote(name)}.",
                f"<{placeholder}>": quote(name),
                f"<'{placeholder}'>": literal(name),
            }
        # In one go: what is put in may look like a placeholder.
        return _PLACEHOLDER.sub(lambda found: filled[found[0]], sql)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that a step makes on a table which may be large.

    Args:
        name: Its name.
        table: Its table, with the placeholder of the schema.
        sql: What makes it, with placeholders.
    """

    name: str
    table: str
    sql: str

    @property
    def qualified_name(self) -> str:
        """Its name with the placeholder of its schema."""
        return f"ledger.{self.name}"

    @property
    def concurrently(self) -> str:
        """What makes it while others write to the table; outside of a transaction."""
        return self.sql.replace("CREATE INDEX IF NOT EXISTS", "CREATE INDEX CONCURRENTLY", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A step from one version of the tables to the next.

    Args:
        version: The version that it leads to.
        name: What it does.
        sql: With placeholders for the schemas' names.
    """

    version: int
    name: str
    sql: str

    @property
    def indexes(self) -> list[Index]:
        """The indexes that can be made before the step: those of which it says IF NOT EXISTS."""
        return [Index(name=found[1], table=found[2], sql=found[0]) for found in _INDEX.finditer(self.sql)]


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the steps, in their order. They never change once released."""
    steps = []
    for path in sorted(_package("migrations").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".sql"):
            number, name = path.name.removesuffix(".sql").split("_", 1)
            steps.append(Migration(version=int(number), name=name, sql=path.read_text(encoding="utf-8")))
    return tuple(steps)


@cache
def functions_sql() -> str:
    """Return the functions and triggers, which are put in place anew with every migration."""
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted(_package("functions").iterdir(), key=lambda path: path.name)
        if path.name.endswith(".sql")
    ]
    return "\n".join(texts)


def functions_digest(names: Names) -> str:
    """Return what tells the functions of one release, and of one place, from those of another."""
    return hashlib.sha256(names.put_into(functions_sql()).encode()).hexdigest()


@cache
def indexes() -> frozenset[str]:
    """Return the names of the indexes on the ledger's tables, but for those of primary keys."""
    names: set[str] = set()
    for step in migrations():
        for what, name in _INDEXES.findall(step.sql):
            (names.add if what == "CREATE" else names.discard)(name)
    return frozenset(names)


@cache
def guards() -> frozenset[str]:
    """Return the names of the triggers on the ledger's own tables."""
    return frozenset(
        re.findall(
            r"^CREATE (?:OR REPLACE|CONSTRAINT) TRIGGER (\w+)\s[^;]* ON ledger\.\w+\s", functions_sql(), re.MULTILINE
        )
    )


@cache
def triggers() -> frozenset[str]:
    """Return the names of the triggers on Oban's table."""
    return frozenset(
        re.findall(r"^CREATE OR REPLACE TRIGGER (\w+)\s[^;]* ON oban\.oban_jobs ", functions_sql(), re.MULTILINE)
    )


def quote(identifier: str) -> str:
    """Quote an identifier."""
    doubled = identifier.replace('"', '""')
    return f'"{doubled}"'


def literal(text: str) -> str:
    """Quote a text."""
    doubled = text.replace("'", "''")
    # Says what a backslash means, which a setting decides otherwise.
    return " E'{}'".format(doubled.replace("\\", "\\\\")) if "\\" in text else f"'{doubled}'"


def _dollars(text: str) -> str:
    """Return dollar quotes that do not occur in a text."""
    tags = (f"$ledger{number or ''}$" for number in itertools.count())
    return "$$" if "$$" not in text else next(tag for tag in tags if tag not in text)


def _package(name: str) -> Traversable:
    return files("signal_ledger_adapters.postgres").joinpath(name)
