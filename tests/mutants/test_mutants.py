"""Seeded mutants: each breaks one rule in a copy of the source, and the suite must notice.

A test that cannot fail asserts nothing; a mutant that survives names a promise that no test keeps.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ("tests/test_store_contract.py", "tests/core", "tests/sqlite")

MUTANTS = defaultdict(list)
for change in tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]:
    MUTANTS[change["name"]].append(change)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_mutant_is_caught(name, tmp_path):
    for folder in ("ledger", "adapters", "tests", "property_tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for change in MUTANTS[name]:
        path = tmp_path / change["file"]
        text = path.read_text()
        times = text.count(change["old"])
        assert times == 1, f"{change['file']}: the text to change is there {times} times, expected once"
        path.write_text(text.replace(change["old"], change["new"]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *SUITE],
        cwd=tmp_path,
        env={
            **{key: value for key, value in os.environ.items() if "COVERAGE" not in key and "XDIST" not in key},
            "PYTHONPATH": f"{tmp_path / 'ledger'}:{tmp_path / 'adapters'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    # 1 is "tests failed"; anything else, an error of collection for instance, is no catch.
    assert done.returncode == 1, f"{name} survived:\n{done.stdout[-2000:]}"
