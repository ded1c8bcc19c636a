"""The kit's façade: what it offers, and what it needs."""

import os
import subprocess
import sys

import pytest

from signal_ledger import testing


def test_every_public_name_is_there():
    for name in testing.__all__:
        assert getattr(testing, name) is not None
    assert dir(testing) == testing.__all__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match=r"module 'signal_ledger.testing' has no attribute 'nonsense'"):
        _ = testing.nonsense


def loaded_by(statement):
    """The modules that a statement loads, in a process that finds neither pytest nor Hypothesis."""
    hide = "import sys; sys.modules.update(pytest=None, hypothesis=None); "
    return subprocess.run(
        [sys.executable, "-c", f"{hide}{statement}; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
    ).stdout.split()


def test_importing_it_loads_no_engine():
    loaded = loaded_by("from signal_ledger import testing")
    for module in ("sqlalchemy", "oban", "erlpack", "asyncio"):
        assert module not in loaded, module


def test_workers_are_run_without_pytest_and_without_hypothesis():
    names = ", ".join(testing.__all__)
    assert "oban" in loaded_by(
        f"import asyncio; from oban import worker; from signal_ledger.testing import {names}\n"
        "@worker()\nclass W:\n    async def process(self, job):\n        return 7\n"
        "assert asyncio.run(run(W)).result == 7"
    )
