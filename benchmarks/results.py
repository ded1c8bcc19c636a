"""Raw results: one file, to which each run adds the sections that it has measured."""

import json
import os
import platform
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.options import Options
from signal_ledger_adapters.postgres.binaries import PostgresMissingError, find_postgres

_PACKAGES = ("oban", "asyncpg", "psycopg", "SQLAlchemy", "erlpack", "dbos", "absurd-sdk", "eventsourcing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one section has found, and where.

    Args:
        title: Of its table.
        options: What was asked for.
        versions: Of what was measured, by name.
        figures: See `Figure.as_json`.
    """

    title: str
    options: dict[str, object]
    versions: dict[str, str]
    figures: list[dict[str, object]]

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return the points of a line: where and how much."""
        return [(_float(figure["at"]), _float(figure["value"])) for figure in self.figures if figure["series"] == name]


def versions() -> dict[str, str]:
    """Return the versions of what is here."""
    found = {
        "machine": f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
    }
    try:
        found["PostgreSQL"] = find_postgres().release
    except PostgresMissingError:
        found["PostgreSQL"] = "missing"
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def add(path: Path, name: str, title: str, options: Options, figures: Iterable[Figure]) -> None:
    """Put a section into a file; the others that it has stay."""
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    there[name] = {
        "title": title,
        "options": _options(name, options),
        "versions": {**versions(), "load average": f"{os.getloadavg()[0]:.1f}"},
        "figures": [figure.as_json() for figure in figures],
    }
    path.write_text(json.dumps(there, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _options(name: str, options: Options) -> dict[str, object]:
    """Return what the command line has to say for these figures; the files that it names are the reader's own."""
    said: dict[str, object] = {"rounds": options.rounds, "seconds": options.seconds}
    if name == "log":
        said["events"] = " --events ".join(map(str, options.events[1:]))
    if name == "peers" and options.absurd_schema is not None:
        said["absurd-schema"] = "absurd.sql"
    return said


def read(path: Path) -> dict[str, Section]:
    """Read the sections of a file, by their names."""
    return {name: Section(**section) for name, section in json.loads(path.read_text(encoding="utf-8")).items()}


def _float(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
