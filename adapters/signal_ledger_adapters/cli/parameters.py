"""Types of the command line's parameters: jobs, instants, payloads."""

import getpass
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from signal_ledger import strict_json
from signal_ledger.events import Kind

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_EXPECTED = "expected a time such as 2026-11-23T12:30Z, a date, or how {}, such as 90s, 15m, 2h, 7d or 1w"

_PAYLOAD = "--payload"

KINDS = tuple(kind.value for kind in Kind)


class Instant(click.ParamType[datetime]):
    """An instant: ISO 8601, in local time unless it says otherwise; or a duration counted from now.

    Args:
        sign: -1 if a duration is how long ago, 1 if it is how far ahead.
    """

    name = "time"

    def __init__(self, sign: int) -> None:
        self._sign = sign

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        """Read one."""
        if isinstance(value, datetime):
            return value
        try:
            if match := _DURATION.fullmatch(value):
                return datetime.now(UTC) + self._sign * timedelta(**{_UNITS[match[2]]: float(match[1])})
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            told = _EXPECTED.format("long ago" if self._sign < 0 else "far ahead")
            self.fail(f"{told}, got {value!r}", param, ctx)


AGO = Instant(-1)
AHEAD = Instant(1)


class JobId(click.ParamType[int]):
    """A job's id; completed with the jobs that wait."""

    name = "job"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Read one."""
        try:
            number = int(value)
        except ValueError:
            # It is not quoted: it may be a part of a payload that the shell has split.
            self.fail("expected the id of a job, which is a number", param, ctx)
        if not -(2**63) <= number < 2**63:
            self.fail("expected the id of a job, of 64 bits, got a larger number", param, ctx)
        return number

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the jobs that wait, with what they wait for."""
        from signal_ledger_adapters.cli.completions import waiting_jobs

        del param
        return waiting_jobs(ctx, incomplete)


JOB = JobId()


def parse_arguments(text: str) -> dict[str, object]:
    """Read the args of a job: an object of JSON.

    Raises:
        click.BadParameter: It is none. The message never quotes it.
    """
    found = _parse_json(text, "the argument", "--args")
    if not isinstance(found, dict):
        raise click.BadParameter("expected an object of JSON, such as '{\"order\": 7}'", param_hint="--args")
    return found


def parse_payload(text: str) -> object:
    """Read the payload of a signal: JSON, ``@file`` with JSON in it, or ``@-`` for standard input.

    Raises:
        click.BadParameter: It is no JSON, or the file cannot be read. The message never quotes what was found.
    """
    if not text.startswith("@"):
        return _parse_json(text, "the argument")
    path = text[1:]
    where = "standard input" if path == "-" else path
    try:
        read = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return _parse_json(read.decode(), where)
    except OSError as error:
        raise click.BadParameter(
            f"expected @FILE with a file that can be read, got {where}: {error.strerror}", param_hint=_PAYLOAD
        ) from None
    except UnicodeDecodeError:
        raise click.BadParameter(f"expected JSON in UTF-8 in {where}", param_hint=_PAYLOAD) from None


def _parse_json(text: str, where: str, option: str = _PAYLOAD) -> object:
    try:
        return strict_json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise click.BadParameter(
            f'expected JSON in {where}, such as \'{{"decision": "approved"}}\', and {place} is none',
            param_hint=option,
        ) from None
    except (ValueError, RecursionError):
        raise click.BadParameter(
            f"expected JSON in {where}, with each key of an object once, no NaN and no Infinity, and not too deep",
            param_hint=option,
        ) from None


def default_source() -> str | None:
    """Return the name of the user who runs the program, as far as the system knows it."""
    try:
        return getpass.getuser() or None
    except (OSError, KeyError, ImportError):
        return None


def channel_option[F: Callable[..., Any]](function: F) -> F:
    """Add --channel as a filter."""
    return click.option("--channel", metavar="NAME", help="Only this channel; '' is the default channel.")(function)


def event_filters[F: Callable[..., Any]](function: F) -> F:
    """Add the filters of events that a log can be followed with."""
    for option in (
        channel_option,
        click.option("--source", metavar="TEXT", help="Only deliveries with this source."),
        click.option(
            "--kind",
            "kinds",
            multiple=True,
            type=click.Choice(KINDS),
            metavar="KIND",
            callback=lambda _context, _parameter, value: value or None,
            help=f"Only these kinds; may be repeated: {', '.join(KINDS)}.",
        ),
        click.option("--job", "job_id", type=JOB, metavar="JOB", help="Only this job."),
    ):
        function = option(function)
    return function
