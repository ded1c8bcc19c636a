"""Seeded mutants: each breaks one rule in a copy of the source, and the suite must notice.

A test that cannot fail asserts nothing; a mutant that survives names a promise that no test keeps. CI plays a third of
them, others every day; elsewhere all are played. What they change is looked for in each run.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.mutants.planting import mutants_of, plant

SUITE = ("tests/test_store_contract.py", "tests/core", "tests/sqlite")

MUTANTS = mutants_of(Path(__file__).with_name("mutants.toml"))
TODAY = datetime.now(UTC).toordinal()
PLAYED = [name for place, name in enumerate(MUTANTS) if not os.environ.get("CI") or place % 3 == TODAY % 3]


@pytest.mark.parametrize("name", list(MUTANTS))
def test_what_a_mutant_changes_is_there(name, tmp_path):
    plant(MUTANTS[name], tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLAYED)
def test_a_mutant_is_caught(name, tmp_path):
    environment = plant(MUTANTS[name], tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *SUITE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    # 1 is "tests failed"; anything else, an error of collection for instance, is no catch.
    assert done.returncode == 1, f"{name} survived:\n{done.stdout[-2000:]}"
