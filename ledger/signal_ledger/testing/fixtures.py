"""Pytest's fixtures of the test kit. Name this module in a ``conftest.py`` at the root of your tests.

``pytest_plugins = ["signal_ledger.testing.fixtures"]``

The fixtures are no coroutines, and the engine is not started: a test enters it by ``async with``. So they are the same
under pytest-asyncio, in its strict and its auto mode, under anyio on asyncio, and with ``asyncio.run``. To configure
them, override `manual_clock` in your ``conftest.py``, or write an engine's fixture of your own after this pattern.
"""

from collections.abc import Generator

import pytest

from signal_ledger import testing


@pytest.fixture
def manual_clock() -> testing.ManualClock:
    """A clock that tests move. It begins at the present time."""
    return testing.engine().clock


@pytest.fixture
def manual_engine(manual_clock: testing.ManualClock) -> Generator[testing.ManualEngine, None, None]:
    """An engine for tests, in memory, on `manual_clock`; enter it by ``async with manual_engine:``.

    It must be closed when the test ends, which ``async with`` sees to.
    """
    engine = testing.engine(clock=manual_clock)
    yield engine
    if engine.is_open:
        engine.abandon()
        pytest.fail(
            "manual_engine: expected to be closed when the test ends, it is open; use `async with manual_engine:`",
            pytrace=False,
        )
