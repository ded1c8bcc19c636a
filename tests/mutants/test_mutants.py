"""Seeded mutants: each breaks one rule in a copy of the source, and the suite must notice.

A test that cannot fail asserts nothing; a mutant that survives names a promise that no test keeps.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.planting import mutants_of, plant

SUITE = ("tests/test_store_contract.py", "tests/core", "tests/sqlite")

MUTANTS = mutants_of(Path(__file__).with_name("mutants.toml"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(MUTANTS))
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
