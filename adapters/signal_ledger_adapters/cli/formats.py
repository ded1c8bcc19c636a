"""Rows as lines of JSON, as an array, and as CSV: what other programs read."""

import csv
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol, TextIO

from signal_ledger.instants import to_text
from signal_ledger_adapters.cli.views import Field, Row

_END = "\r\n"
_PAYLOAD = "payload"
_ONLY_OF_DELIVERIES = (_PAYLOAD, "payload_error")


class Rows(Protocol):
    """Writes rows, one after the other."""

    def add(self, row: Row) -> None:
        """Write the next one."""
        ...

    def end(self) -> None:
        """Write what comes after the last one."""
        ...


class Lines:
    """One object of JSON a line.

    Args:
        stream: Where to write.
        fields: The keys, in their order.
    """

    def __init__(self, stream: TextIO, fields: Sequence[Field]) -> None:
        self._stream = stream
        self._fields = fields

    def add(self, row: Row) -> None:
        """Write a line."""
        self._stream.write(_dump(_document(self._fields, row)) + "\n")

    def end(self) -> None:
        """Nothing comes after the last one."""


class Array:
    """One array of JSON, a row a line. The arguments are those of `Lines`."""

    def __init__(self, stream: TextIO, fields: Sequence[Field]) -> None:
        self._stream = stream
        self._fields = fields
        self._before = "[\n"

    def add(self, row: Row) -> None:
        """Write an element."""
        self._stream.write(self._before + _dump(_document(self._fields, row)))
        self._before = ",\n"

    def end(self) -> None:
        """Close the array."""
        self._stream.write("[]\n" if self._before == "[\n" else "\n]\n")


class Csv:
    """A header, and a row a line: as RFC 4180, but for the ends of lines. The arguments are those of `Lines`.

    A payload is JSON whatever it is: else 1 and "1" would be the same, and so would None and no payload at all.
    """

    def __init__(self, stream: TextIO, fields: Sequence[Field]) -> None:
        self._writer = csv.writer(_LinesOf(stream), lineterminator=_END)
        self._fields = fields
        self._writer.writerow([field.key for field in fields])

    def add(self, row: Row) -> None:
        """Write a row."""
        self._writer.writerow(
            [
                _dump(row[_PAYLOAD]) if field.key == _PAYLOAD and _PAYLOAD in row else _cell(row.get(field.key))
                for field in self._fields
            ]
        )

    def end(self) -> None:
        """Nothing comes after the last one."""


class _LinesOf:
    """Ends the rows of a `csv.writer` with a line feed alone.

    The writer itself has to think that they end in both characters: before Python 3.13 it quotes, of the two, only
    those that end its lines, and a bare carriage return would begin a row of its own for who reads it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: str) -> int:
        """Write a row; the writer hands it over in one piece."""
        return self._stream.write(row.removesuffix(_END) + "\n")


def write_object(stream: TextIO, fields: Sequence[Field], row: Row) -> None:
    """Write a single row as one object of JSON on several lines."""
    stream.write(json.dumps(_document(fields, row), default=_plain, indent=2) + "\n")


def _document(fields: Sequence[Field], row: Row) -> dict[str, object]:
    return {
        field.key: row.get(field.key) for field in fields if field.key in row or field.key not in _ONLY_OF_DELIVERIES
    }


def _dump(document: object) -> str:
    # ASCII, as json has it by itself: what a program reads must not steer the terminal that it is looked at on.
    return json.dumps(document, default=_plain)


def _plain(value: object) -> object:
    match value:
        case datetime():
            return to_text(value)
        case timedelta():
            return value.total_seconds()
        case Enum():
            return value.value
        case _:
            raise TypeError(f"expected a value of a row, got {type(value).__name__}")


def _cell(value: object) -> object:
    match value:
        case datetime() | timedelta() | Enum():
            return _plain(value)
        case None | str() | int() | float():
            return value
        case _:
            return _dump(value)
