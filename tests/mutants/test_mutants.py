"""Seeded mutants: each breaks one rule in a copy of the source, and the suite must notice.

A test that cannot fail asserts nothing; a mutant that survives names a promise that no test keeps. Against those of
PostgreSQL one test is played, which each of them names. CI plays a sixth of all, others every day; elsewhere all are
played. What they change is looked for in each run.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from signal_ledger_adapters.postgres.binaries import PostgresMissingError, find_postgres
from tests.mutants.planting import changed, mutants_of, plant
from tests.postgres.version import wanted_version

SUITE = ("tests/test_store_contract.py", "tests/core", "tests/sqlite")

MUTANTS = mutants_of(Path(__file__).with_name("mutants.toml"))
TODAY = datetime.now(UTC).toordinal()
PLAYED = [name for place, name in enumerate(MUTANTS) if not os.environ.get("CI") or place % 6 == TODAY % 6]


def has_postgres():
    """Say whether there is one to play on. In CI there must be."""
    try:
        find_postgres(wanted_version())
    except PostgresMissingError:
        if os.environ.get("CI"):
            raise
        return False
    return True


@pytest.mark.parametrize("name", list(MUTANTS))
def test_what_a_mutant_changes_is_there(name):
    assert changed(MUTANTS[name])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLAYED)
def test_a_mutant_is_caught(name, tmp_path):
    test = MUTANTS[name][0].get("test")
    if test is not None and not has_postgres():
        pytest.skip("there is no PostgreSQL here")
    environment = plant(MUTANTS[name], tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *(SUITE if test is None else [test]),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    # 1 is "tests failed"; anything else, an error of collection for instance, is no catch.
    assert done.returncode == 1, f"{name} survived:\n{done.stdout[-2000:]}"
