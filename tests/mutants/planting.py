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


def changed(changes):
    """Return the texts of the files that a mutant changes, by their names: what it replaces is there once."""
    texts = {}
    for change in changes:
        name = change["file"]
        text = texts.get(name) or (ROOT / name).read_text()
        times = text.count(change["old"])
        assert times == 1, f"{name}: the text to change is there {times} times, expected once"
        texts[name] = text.replace(change["old"], change["new"])
    return texts


def plant(changes, folder):
    """Copy the source to a folder, changed. Return the environment in which it runs there."""
    for name in ("ledger", "adapters", "tests", "property_tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, text in changed(changes).items():
        (folder / name).write_text(text)
    return {
        **{key: value for key, value in os.environ.items() if "COVERAGE" not in key and "XDIST" not in key},
        "PYTHONPATH": f"{folder / 'ledger'}:{folder / 'adapters'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
