"""For users of Alembic: keep its autogenerate away from the ledger's tables."""

from collections.abc import Callable, Mapping

type IncludeName = Callable[[str | None, str, Mapping[str, str | None]], bool]
"""Alembic's ``include_name``: the name of a thing, what it is, and the names of what it is in."""


def include_name(schema: str = "signal_ledger", *, also: IncludeName | None = None) -> IncludeName:
    """Return an ``include_name`` for Alembic's ``context.configure`` that leaves the ledger's schema out.

    With ``include_schemas=True``, ``alembic revision --autogenerate`` would else propose to drop every table that the
    application's metadata does not know.

    Args:
        schema: The ledger's schema.
        also: Another ``include_name`` to ask as well.

    Example:
        >>> include = include_name()
        >>> include("signal_ledger", "schema", {})
        False
        >>> include("orders", "table", {"schema_name": None})
        True
    """

    def include(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
        found_in = name if kind == "schema" else parents.get("schema_name")
        return found_in != schema and (also is None or also(name, kind, parents))

    return include
