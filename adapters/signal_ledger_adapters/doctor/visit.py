"""What the checks of a database on PostgreSQL ask, and what they tell one another."""

from collections.abc import Awaitable, Callable

import asyncpg

from signal_ledger_adapters.doctor.check import Check
from signal_ledger_adapters.postgres.asking import Asked
from signal_ledger_adapters.postgres.installed import Installed
from signal_ledger_adapters.postgres.schema import Names


class Visit:
    """A visit to a database.

    Args:
        asked: The connection that is asked.
        other: Another one, with which it is compared.
        names: Where things are.
        timeout_s: How long each check may take.
        says_pooler: Whether the URL says that there is a pooler of transactions in between.

    Attributes:
        shares_sessions: Whether there is one.
        on_standby: Whether the server only follows another one.
        installed: The ledger that can be examined: one of this version; None if there is none.
    """

    def __init__(self, asked: Asked, other: Asked, names: Names, timeout_s: float, *, says_pooler: bool) -> None:
        self.asked = asked
        self.other = other
        self.names = names
        self.timeout_s = timeout_s
        self.says_pooler = says_pooler
        self.shares_sessions = False
        self.on_standby = False
        self.installed: Installed | None = None

    @property
    def driver(self) -> asyncpg.Connection:
        """The connection that is asked, as the driver has it."""
        return self.asked.driver

    def sql(self, text: str) -> str:
        """Put the schemas' names into a statement."""
        return self.names.put_into(text)


type Look = Callable[[Visit], Awaitable[Check]]
