"""Writing answers: tables for people, `formats` for programs."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, TextIO

import click

from signal_ledger_adapters.cli import words
from signal_ledger_adapters.cli.exits import escaped
from signal_ledger_adapters.cli.formats import Array, Csv, Lines, Rows, write_object
from signal_ledger_adapters.cli.views import Field, Row, View
from signal_ledger_adapters.timeline import STYLES, When, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_SIZE = (120, 24)
"""Of what is no terminal, unless COLUMNS says otherwise."""

_FOLDED_MIN = 12
"""Columns are not folded narrower."""

_PADDING = 2
"""Between columns."""

_ZONES = {"local": None, "utc": UTC}

_COLOURS = {
    **{kind.value: style for kind, style in STYLES.items()},
    **dict.fromkeys(["woken", "completed", "ok"], "green"),
    **dict.fromkeys(["live", "executing"], "cyan"),
    **dict.fromkeys(["ignored", "cancelled", "discarded", "deleted", "diverged", "finding"], "red"),
    **dict.fromkeys(["duplicate", "suspended"], "dim"),
    "note": "yellow",
}


class Output:
    """Writes the answer of a command.

    Args:
        form: ``table``, ``json``, ``jsonl`` or ``csv``.
        times: How tables tell instants: ``local``, ``utc`` or ``relative``.
        payloads: Whether payloads are shown.
        stream: Where to write; standard output unless given.
    """

    def __init__(self, form: str, times: str, *, payloads: bool = False, stream: TextIO | None = None) -> None:
        self.form = form
        self.payloads = payloads
        self._times = times
        self._stream = sys.stdout if stream is None else stream
        self.when = self._clock(words.beside(datetime.now(UTC)), milliseconds=False)
        """How tables tell instants."""

    @property
    def is_table(self) -> bool:
        """Whether it is for people."""
        return self.form == "table"

    @property
    def is_relative(self) -> bool:
        """Whether instants are told beside now."""
        return self._times not in _ZONES

    @property
    def precisely(self) -> When:
        """How lines tell when events were recorded: to the millisecond, or beside the time at which each is told."""
        return self._clock(words.beside_now)

    def tell_story(self, first: datetime, last: datetime) -> str | None:
        """Tell instants from now on so that a story from one to another is easy to read.

        They count from the first one, if they are to be relative. The date is left out, if it is the same one.

        Returns:
            What instants are told without: that date, if so, and the time zone, or both zones if clocks are changed
            meanwhile. None if they are relative.
        """
        zone = _ZONES.get(self._times)
        begin, end = first.astimezone(zone), last.astimezone(zone)
        day = begin.date()
        is_one_day = end.date() == day
        self.when = self._clock(words.since(first), day=day if is_one_day else None)
        zones = "/".join(dict.fromkeys([str(begin.tzname()), str(end.tzname())]))
        if self._times not in _ZONES:
            return None
        return f"{day} {zones}" if is_one_day else f"times in {zones}"

    def _clock(self, relative: When, *, day: date | None = None, milliseconds: bool = True) -> When:
        if self._times not in _ZONES:
            return relative
        return words.clock(_ZONES[self._times], day=day, milliseconds=milliseconds)

    async def rows(
        self,
        view: View,
        rows: Iterable[Row] | AsyncIterable[Row],
        *,
        line: "Callable[[Row], Text] | None" = None,
        at_once: bool = False,
    ) -> int:
        """Write rows, and return how many there were.

        Args:
            view: What they are.
            rows: The rows.
            line: How people get a row as a line of its own; else they get a table of all.
            at_once: Whether each row is to be seen at once, since the next may come much later.
        """
        writer = self._writer(self._fields(view), line)
        count = 0

        def add(row: Row) -> None:
            nonlocal count
            writer.add(row)
            count += 1
            if at_once:
                self._stream.flush()

        try:
            if isinstance(rows, AsyncIterable):
                async for row in rows:
                    add(row)
            else:
                for row in rows:
                    add(row)
        except asyncio.CancelledError:
            # What is followed ends in no other way; the rest would be cut off, and must not look whole.
            if at_once:
                writer.end()
            raise
        writer.end()
        self._stream.flush()
        return count

    def record(self, view: View, row: Row, *, told: Mapping[str, str] | None = None) -> None:
        """Write a single row.

        Args:
            view: What it is.
            row: The row.
            told: What people get instead of some values, by their keys.
        """
        fields = self._fields(view)
        match self.form:
            case "table":
                texts = {field.key: self.text(field, row) for field in fields} | dict(told or {})
                self.pairs([(field.heading, texts[field.key]) for field in fields])
            case "json":
                write_object(self._stream, fields, row)
            case _:
                writer = self._writer(fields, None)
                writer.add(row)
                writer.end()
        self._stream.flush()

    def say(self, text: "str | Text") -> None:
        """Write something for people, folded where the terminal ends."""
        self.console().print(escaped(text) if isinstance(text, str) else text, markup=False)

    def console(self) -> "Console":
        """Return the terminal, or what stands for one."""
        from rich.console import Console

        class Terminal(Console):
            def on_broken_pipe(self) -> None:
                # Rich's own way would end the program with a status that stands for something else.
                raise BrokenPipeError

        # Rich itself would take a dumb terminal for one of 80 columns.
        width, height = shutil.get_terminal_size(_SIZE)
        return Terminal(file=self._stream, width=width, height=height, highlight=False)

    def text(self, field: Field, row: Row) -> str:
        """Tell a value to people."""
        value = row.get(field.key)
        if field.show is not None:
            value = field.show(value)
        match value:
            case None:
                return ""
            case bool():
                return "yes" if value else "no"
            case datetime():
                return self.when(value)
            case list():
                return ", ".join([printable(str(item)) for item in value])
            case dict():
                return ", ".join([f"{printable(str(key)) or '(default)'}: {item}" for key, item in value.items()])
            case _:
                return printable(str(value)) + (payload_text(row) if field.key == "text" else "")

    def _fields(self, view: View) -> list[Field]:
        return [field for field in view.fields if self.payloads or field.key not in ("payload", "payload_error")]

    def _writer(self, fields: Sequence[Field], line: "Callable[[Row], Text] | None") -> Rows:
        match self.form:
            case "jsonl":
                return Lines(self._stream, fields)
            case "json":
                return Array(self._stream, fields)
            case "csv":
                return Csv(self._stream, fields)
            case _:
                return _Table(self, fields) if line is None else _TableOfLines(self.console(), line)

    def pairs(self, pairs: Sequence[tuple[str | None, str]]) -> None:
        """Write headings, each with its value; those without are left out."""
        table = _new_table(show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for heading, text in pairs:
            if heading is not None and text:
                table.add_row(heading, styled(text))
        self.console().print(table)


class _Table:
    """All rows as one table, which is written in the end: only then it is known how wide its columns are.

    Where they do not fit, each row is a table of its own, with a line for each value.
    """

    def __init__(self, output: Output, fields: Sequence[Field]) -> None:
        self._output = output
        self._fields = [field for field in fields if field.heading is not None]
        self._rows: list[list[str]] = []

    def add(self, row: Row) -> None:
        self._rows.append([self._output.text(field, row) for field in self._fields])

    def end(self) -> None:
        console = self._output.console()
        if not self._rows:
            click.echo("none", err=True)
        elif self._width() <= console.width:
            console.print(self._table())
        else:
            for place, texts in enumerate(self._rows):
                if place:
                    console.print()
                self._output.pairs([(field.heading, text) for field, text in zip(self._fields, texts, strict=True)])

    def _table(self) -> "Table":
        table = _new_table()
        for field in self._fields:
            table.add_column(
                field.heading or "",
                justify="right" if field.right else "left",
                no_wrap=not field.wraps,
                overflow="fold",
            )
        for texts in self._rows:
            table.add_row(*[styled(text) for text in texts])
        return table

    def _width(self) -> int:
        """Return how wide a terminal must be for all columns."""
        from rich.cells import cell_len

        needed = 0
        for field, *texts in zip(self._fields, *self._rows, strict=True):
            widest = max(cell_len(text) for text in (field.heading or "", *texts))
            needed += (min(widest, _FOLDED_MIN) if field.wraps else widest) + _PADDING
        return needed - _PADDING


class _TableOfLines:
    """Each row as a line of its own, which is written at once."""

    def __init__(self, console: "Console", line: "Callable[[Row], Text]") -> None:
        self._console = console
        self._line = line

    def add(self, row: Row) -> None:
        self._console.print(self._line(row), soft_wrap=True)

    def end(self) -> None:
        """Nothing comes after the last one."""


def payload_text(row: Row) -> str:
    """Tell people what was sent, behind what else is told; nothing, if the event is no delivery."""
    if "payload" in row:
        return f": {json.dumps(row['payload'])}"
    return f": ({row['payload_error']})" if "payload_error" in row else ""


def styled(text: str) -> "Text":
    """Return a text in the colour that its word has. It is never read as markup."""
    from rich.text import Text

    return Text(text, style=_COLOURS.get(text, ""))


def _new_table(*, show_header: bool = True) -> "Table":
    from rich.table import Table

    return Table(box=None, show_header=show_header, header_style="bold", pad_edge=False, padding=(0, _PADDING, 0, 0))
