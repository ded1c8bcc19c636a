"""Which version of its schema a database has."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaVersion:
    """The version of a ledger's schema, and the one that this library makes.

    Args:
        installed: The version in the database; None if it holds no ledger.
        newest: The version that `migrate` leads to.
        has_own_functions: Whether the functions in the database are those of this release. Another release of the same
            version may have others, on PostgreSQL; SQLite has none.
    """

    installed: int | None
    newest: int
    has_own_functions: bool = True

    @property
    def is_current(self) -> bool:
        """Whether this library can use the schema as it is, so that there is nothing to do for `migrate`."""
        return self.installed == self.newest and self.has_own_functions
