"""Planting a mutant: a copy of the source with one rule broken."""

import os
import shutil
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def mutants_of(path):
    """Read a file of mutants: what each changes, by its name."""
    mutants = defaultdict(list)
    for change in tomllib.loads(path.read_text())["mutant"]:
        mutants[change["name"]].append(change)
    return mutants


def plant(changes, folder):
    """Copy the source to a folder, changed. Return the environment in which it runs there."""
    for name in ("ledger", "adapters", "tests", "property_tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for change in changes:
        path = folder / change["file"]
        text = path.read_text()
        times = text.count(change["old"])
        assert times == 1, f"{change['file']}: the text to change is there {times} times, expected once"
        path.write_text(text.replace(change["old"], change["new"]))
    return {
        **{key: value for key, value in os.environ.items() if "COVERAGE" not in key and "XDIST" not in key},
        "PYTHONPATH": f"{folder / 'ledger'}:{folder / 'adapters'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
