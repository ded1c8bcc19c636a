"""How the program ends: its exit statuses, and which error ends it with which."""

import re
from enum import IntEnum

PROGRAM = "signal-ledger"


class Exit(IntEnum):
    """The exit statuses."""

    OK = 0
    """It did what it was asked for, and found nothing wrong."""
    FINDING = 1
    """What was asked about is not as it should be: verify, rerun, doctor or schema-version has a finding."""
    USAGE = 2
    """The call is wrong; nothing was done."""
    NOT_FOUND = 3
    """There is no such job or workflow; or a job could not get a signal, since it has ended."""
    CONFLICT = 4
    """The key of a signal belongs to another signal; nothing was written."""
    TIMED_OUT = 5
    """The database did not answer in time, or is locked. The message says if a signal may have been stored."""
    UNUSABLE = 6
    """The database cannot be used: it is not there, not reachable, damaged, or holds no ledger of this version."""
    FAILED = 70
    """The program itself has failed, as nobody foresaw. BSD's EX_SOFTWARE; Python's own 1 would be a finding."""
    INTERRUPTED = 130
    """Ctrl-C."""
    CLOSED_PIPE = 141
    """Whoever read the output went away, as ``head`` does."""


def escaped(text: str) -> str:
    """Escape what a terminal would obey, but for the ends of lines: names and sources may hold anything."""
    from signal_ledger_adapters.timeline import printable

    return "\n".join(map(printable, text.splitlines()))


def without_passwords(text: str) -> str:
    """Leave out the passwords of URLs.

    >>> without_passwords("got 'postgresql://ada:hunter2@db/app?password=hunter2&a=b'")
    "got 'postgresql://ada:***@db/app?password=***&a=b'"
    """
    return _PASSWORD.sub(r"\1***", text)


# Behind a user's name, up to the last @ of the word, since a password may hold anything; or in the query.
_PASSWORD = re.compile(r"(://[^\s:/@]*:|[?&]password=)(?:(?<=:)\S*(?=@)|(?<==)[^\s&'\"]*)", re.IGNORECASE)


class Failure(Exception):  # noqa: N818 - named for the situation
    """Ends the program with a line on standard error.

    Args:
        message: What is wrong, and what was expected.
        status: The exit status.
    """

    def __init__(self, message: str, status: Exit) -> None:
        super().__init__(message)
        self.status = status


def failure_of(error: Exception) -> Failure | None:  # noqa: PLR0911 - a row for each error
    """Return what an error ends the program with; None for one that nobody foresaw, of which the traceback tells."""
    from sqlalchemy.exc import DBAPIError

    from signal_ledger.errors import DeliveryUnknown, KeyConflict, SchemaError
    from signal_ledger.ports import StoreUnavailableError

    match error:
        case KeyConflict():
            return Failure(str(error), Exit.CONFLICT)
        case DeliveryUnknown():
            again = f"repeat the command with --key {error.signal_id} to deliver it at most once"
            why = "" if error.reason is None else f" ({error.reason})"
            return Failure(
                f"no answer from the database within {error.timeout_s:g} s{why}: the signal may or may not have been "
                f"stored; {again}",
                Exit.TIMED_OUT,
            )
        case TimeoutError():
            return Failure(str(error) or "the database did not answer in time", Exit.TIMED_OUT)
        case SchemaError() | StoreUnavailableError():
            return Failure(str(error), Exit.TIMED_OUT if _is_of_lock(error.__cause__) else Exit.UNUSABLE)
        case LookupError() if type(error) is LookupError:
            return Failure(str(error), Exit.NOT_FOUND)
        case ValueError():
            return Failure(str(error), Exit.USAGE)
        case DBAPIError():
            # Its own message would quote the statement and its parameters.
            return Failure(_of_driver(error.orig or error), Exit.UNUSABLE)
        case _ if _is_of_driver(error):
            return Failure(_of_driver(error), Exit.UNUSABLE)
        case _:
            return None


def _is_of_lock(cause: BaseException | None) -> bool:
    import sqlite3

    code = getattr(cause, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_BUSY


def _is_of_driver(error: Exception) -> bool:
    home = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or home in ("asyncpg", "psycopg", "sqlite3", "aiosqlite")


def _of_driver(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
