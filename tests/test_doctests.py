"""The examples in the docstrings of the core, the command line and all public names: each runs in an empty folder."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

import signal_ledger
from signal_ledger import testing
from signal_ledger_adapters import cli
from signal_ledger_adapters import testing as kit

MODULES = [signal_ledger] + [
    import_module(name)
    for name in sorted(
        {
            found.name
            for package in (signal_ledger, kit, cli)
            for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        }
        | set(signal_ledger._HOMES.values())
    )
]
EXAMPLES = {found.name: found for module in MODULES for found in doctest.DocTestFinder().find(module) if found.examples}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_stands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.DocTestRunner().run(EXAMPLES[name])
    assert results.attempted > 0
    assert results.failed == 0


# Its examples are on the pages of docs/, which are run with a server.
NEED_A_SERVER = {"attach"}


# What they assert is told by the example of `assert_waiting`.
NEED_NO_OTHER = {"assert_not_waiting", "assert_signalled", "assert_state", "assert_timed_out"}


@pytest.mark.parametrize("home", [signal_ledger, signal_ledger.codec, testing], ids=lambda home: home.__name__)
def test_every_public_function_has_an_example(home):
    names = [name for name in home.__all__ if name not in NEED_A_SERVER | NEED_NO_OTHER]
    functions = [getattr(home, name) for name in names if inspect.isfunction(getattr(home, name))]
    assert functions
    for function in functions:
        assert f"{function.__module__}.{function.__qualname__}" in EXAMPLES
