"""The doctor on a SQLite file: whether it can serve, and keeps what it is told."""

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from functools import cache, partial
from pathlib import Path

from signal_ledger.errors import SchemaError
from signal_ledger_adapters.doctor.check import (
    Check,
    Status,
    finding,
    in_thread,
    not_understood,
    note,
    ok,
    told_bytes,
    told_names,
    told_span,
)
from signal_ledger_adapters.doctor.machine import check_file_system, check_room
from signal_ledger_adapters.doctor.sqlite_work import (
    check_clock,
    check_engines,
    check_outbox,
    check_repairs,
    check_waits,
)
from signal_ledger_adapters.doctor.watcher import Watcher
from signal_ledger_adapters.sqlite.connection import connect
from signal_ledger_adapters.sqlite.looking import can_write, journal_of, look
from signal_ledger_adapters.sqlite.migrate import migrations, version_of

OLDEST = (3, 37)
"""The first SQLite that has STRICT tables."""

OLDEST_TESTED = (3, 40)

_LEVELS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}

_THINGS = """
SELECT type, name, sql FROM sqlite_schema
WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND name <> 'signal_ledger_schema'
"""

type _Things = dict[tuple[str, str], str]
"""What a schema consists of: the SQL of each thing, by its type and its name."""

_RESTORE = "restore the file from a backup, and find out which program has changed it; nothing else makes up for it"

type _Look = Callable[[Path], Check]


async def examine_file(path: Path, timeout_s: float) -> AsyncGenerator[Check, None]:
    """Look a file over. What cannot apply after what was found before is left out."""
    yield check_version()
    # Less than the whole time, so that who is in the way can be named.
    ways = _Ways(timeout_s / 2)
    statuses: dict[str, Status] = {}
    for name, required, look_at in ways.checks():
        if any(statuses.get(other) is not Status.OK for other in required):
            continue
        try:
            check = await in_thread(partial(look_at, path), timeout_s)
        except TimeoutError:
            # What hangs once hangs again.
            yield finding(
                name,
                f"expected an answer within {timeout_s:g} s, got none; nothing else of the file was examined",
                f"look at the disk of {path}, and whether it is on a network that has gone",
            )
            return
        except (SchemaError, sqlite3.Error, OSError) as error:
            check = finding(name, str(error), _advice(error))
        except Exception as error:  # noqa: BLE001 - what was found cannot be foreseen
            check = not_understood(name, error)
        statuses[name] = check.status
        yield check


def _advice(error: Exception) -> str:
    """Say what to do about what SQLite, or the system, did not do."""
    cause = error if error.__cause__ is None else error.__cause__
    match getattr(cause, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT:
            return "restore the file from a backup, or save what can be read by .recover of the sqlite3 shell"
        case sqlite3.SQLITE_NOTADB:
            return "check the path in the URL"
        case _:
            return "see what the message names"


def check_version() -> Check:
    """Check which SQLite Python was built with."""
    found, version = f"SQLite {sqlite3.sqlite_version}", sqlite3.sqlite_version_info[:2]
    oldest, tested = (".".join(map(str, each)) for each in (OLDEST, OLDEST_TESTED))
    advice = "use a Python that was built with a newer SQLite"
    if version < OLDEST:
        return finding("version", f"{found}: expected {oldest} or newer", advice)
    if version < OLDEST_TESTED:
        return note("version", f"{found}, which is older than {tested}, the oldest that is tested", advice)
    return ok("version", found)


class _Ways:
    """How a file is looked at.

    Args:
        busy_timeout_s: How long to wait for the locks of others.
    """

    def __init__(self, busy_timeout_s: float) -> None:
        self._busy_timeout_s = busy_timeout_s

    def checks(self) -> list[tuple[str, tuple[str, ...], _Look]]:
        """Return the checks in their order: the name, those that must have been ok before, and what does it."""
        whole = ("connection", "schema")
        written = (*whole, "writing")
        return [
            ("file_system", (), lambda path: check_file_system(path.parent)),
            ("disk_space", (), lambda path: check_room(path.parent)),
            ("connection", (), self.check_connection),
            ("schema", ("connection",), self.check_schema),
            ("triggers", whole, partial(self.check_things, "trigger")),
            ("indexes", whole, partial(self.check_things, "index")),
            ("journal", whole, self.check_journal),
            ("writing", (*whole, "journal"), self.check_writing),
            ("synchronous", written, self.check_synchronous),
            ("hints", written, self.check_hints),
            ("clock", whole, self._asking(check_clock)),
            ("repairs", whole, self._asking(check_repairs)),
            ("outbox", whole, self._asking(check_outbox)),
            ("waits", whole, self._asking(check_waits)),
            ("engines", whole, self.check_engines),
        ]

    def check_connection(self, path: Path) -> Check:
        """Check that the file is there and is a database."""
        if not path.exists():
            return finding(
                "connection",
                f"there is no file {path}",
                "check the path in the URL: sqlite:///signals.db is relative to the current folder, "
                "sqlite:////srv/signals.db is not; `signal-ledger migrate` or lite(url) makes the file",
            )
        self._look(path, lambda connection: connection.execute("SELECT count(*) FROM sqlite_schema").fetchone())
        return ok("connection", f"{path} can be read, {told_bytes(path.stat().st_size)}")

    def check_schema(self, path: Path) -> Check:
        """Check that there is a ledger, and that it is of this version and whole."""
        version, newest = self._look(path, version_of), migrations()[-1].version
        if version is None:
            return finding(
                "schema",
                f"{path} holds no ledger",
                "check the path in the URL; `signal-ledger migrate` or lite(url) makes one in it",
            )
        if version > newest:
            return finding(
                "schema",
                f"the schema has version {version}, newer than {newest}, which this library knows",
                "upgrade signal-ledger",
            )
        if version < newest:
            return finding(
                "schema",
                f"the schema has version {version}, expected {newest}",
                "`signal-ledger migrate` upgrades it; so does opening it for writing",
            )
        if wrong := [*self._wrong(path, "table"), *self._wrong(path, "view")]:
            return finding("schema", f"expected the tables of version {newest}, but {told_names(wrong)}", _RESTORE)
        return ok("schema", f"the schema has version {version}, the newest that this library knows")

    def check_things(self, kind: str, path: Path) -> Check:
        """Check that the triggers, or the indexes, are those that belong to this version."""
        name = "triggers" if kind == "trigger" else "indexes"
        if wrong := self._wrong(path, kind):
            return finding(name, f"expected the {name} of this version, but {told_names(wrong)}", _RESTORE)
        return ok(name, f"all {len([1 for its_kind, _ in _expected() if its_kind == kind])} are there")

    def check_journal(self, path: Path) -> Check:
        """Check that the file has write-ahead logging."""
        mode = journal_of(path, busy_timeout_s=self._busy_timeout_s)
        if mode != "wal":
            return finding(
                "journal",
                f"expected write-ahead logging (wal), found the journal mode {mode}",
                "`signal-ledger migrate` switches it on, as opening it for writing does; find out who switched it off",
            )
        return ok("journal", "write-ahead logging")

    def check_writing(self, path: Path) -> Check:
        """Check that this process may write, and that no other program keeps it from that."""
        if not can_write(path):
            return finding(
                "writing",
                f"expected that this user may write to {path} and in its folder, but it may not: it can be audited, "
                "and nothing can be signalled",
                "run as the user whom the file belongs to, or give this one the rights",
            )
        try:
            self._connect(path).close()
        except SchemaError as error:
            return finding("writing", str(error), "end what keeps this library from writing, and try again")
        return ok("writing", "this user may write to the file and in its folder, and nobody holds a lock on it")

    def check_synchronous(self, path: Path) -> Check:
        """Check that the connections which write make the disk keep their commits."""
        with closing(self._connect(path)) as connection:
            [level] = connection.execute("PRAGMA synchronous").fetchone()
        return ok("synchronous", f"{_LEVELS.get(level, level)} on the connections that write, as it must be")

    def check_hints(self, path: Path) -> Check:
        """Check that a commit is seen by another process. It changes nothing."""
        with closing(self._connect(path)) as writer:
            try:
                watcher = Watcher(path, self._busy_timeout_s)
            except (OSError, ValueError) as error:
                return note("hints", f"this was not tested: no other process could be started: {error}")
            with watcher:
                writer.execute("BEGIN IMMEDIATE")
                # What is committed is as it was; within the transaction nobody else can have changed it.
                [own] = writer.execute("PRAGMA user_version").fetchone()
                writer.execute(f"PRAGMA user_version = {own}")
                writer.execute("COMMIT")
                took_s = watcher.seen_after_s()
        if took_s is None:
            return finding(
                "hints",
                "expected that another process sees a commit, but it does not: the two share no memory, and could "
                "destroy the file",
                "end all processes but one; and put the file on a local disk",
            )
        return ok("hints", f"another process sees a commit after {told_span(took_s)}")

    def check_engines(self, path: Path) -> Check:
        """Check whether an engine runs the jobs."""
        return self._look(path, partial(check_engines, path))

    def _asking(self, check: Callable[[sqlite3.Connection], Check]) -> _Look:
        return lambda path: self._look(path, check)

    def _look[T](self, path: Path, ask: Callable[[sqlite3.Connection], T]) -> T:
        return look(path, ask, busy_timeout_s=self._busy_timeout_s)

    def _connect(self, path: Path) -> sqlite3.Connection:
        return connect(path, busy_timeout_s=self._busy_timeout_s)

    def _wrong(self, path: Path, kind: str) -> list[str]:
        """Say what is wrong with the things of a kind that belong to this version. Others are none of our business."""
        there = self._look(path, _things)
        return [
            f"{name} is {'not there' if (kind, name) not in there else 'another'}"
            for (its_kind, name), sql in sorted(_expected().items())
            if its_kind == kind and there.get((kind, name)) != sql
        ]


@cache
def _expected() -> _Things:
    """Return what a schema of this version consists of: that of a database which is made now."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for step in migrations():
            connection.executescript(step.sql)
        return _things(connection)


def _things(connection: sqlite3.Connection) -> _Things:
    return {(kind, name): " ".join(sql.split()) for kind, name, sql in connection.execute(_THINGS)}
