"""Which transactions the server has rolled back for the sake of others, by its log: whose, and what they ran."""

import contextlib
import re
from dataclasses import dataclass

import psycopg

from tests.eventually import eventually
from tests.postgres.engine.conftest import query

DEADLOCK, CONFLICT = "40P01", "40001"

_PREFIX = "%e|%a|%d|"
_ENTRY = re.compile(r"^(\w{5})\|(.*?)\|(.*?)\|(\w+):  (.*(?:\n\t.*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RolledBack:
    code: str
    application: str
    statement: str


class ConflictsLog:
    def __init__(self, path, database):
        self._path = path
        self._database = database
        self._begins = path.stat().st_size

    def rolled_back(self, *codes):
        """Return the transactions of the database that were rolled back with one of these codes since the beginning."""
        found = []
        entries = _ENTRY.findall(self._path.read_bytes()[self._begins :].decode(errors="replace"))
        for code, application, database, level, text in entries:
            if (database, code in codes) != (self._database, True):
                continue
            if level == "ERROR":
                found.append(RolledBack(code, application, ""))
            elif level == "STATEMENT" and found and not found[-1].statement:
                found[-1] = RolledBack(code, application, text)
        return found

    def count(self, code, *applications, statement=""):
        return sum(one.application in applications and statement in one.statement for one in self.rolled_back(code))


@contextlib.asynccontextmanager
async def conflicts_log(cluster, url):
    """Have the server write down, for a while, of what application each fault is."""
    [[database]] = query(url, "SELECT current_database()")
    await _have_prefix(url, f"ALTER SYSTEM SET log_line_prefix = '{_PREFIX}'", lambda prefix: prefix == _PREFIX)
    try:
        yield ConflictsLog(cluster.log, database)
    finally:
        await _have_prefix(url, "ALTER SYSTEM RESET log_line_prefix", lambda prefix: prefix != _PREFIX)


async def _have_prefix(url, statement, is_so):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
        connection.execute("SELECT pg_reload_conf()")
    await eventually(lambda: is_so(query(url, "SHOW log_line_prefix")[0][0]))
