import asyncio
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.postgres.engine.conftest import _forget, it, start  # noqa: F401 - fixtures
from tests.postgres.faults.server import connections


@pytest.fixture(autouse=True)
async def _nothing_leaks(ledger_url):
    """After each fault nothing is left of it: no connection, lock, task or descriptor."""
    await asyncio.sleep(0)
    descriptors = open_descriptors()
    tasks = others()
    yield
    await eventually(lambda: others() <= tasks, timeout=10, what=f"tasks: {others() - tasks}")
    await eventually(lambda: connections(ledger_url) == (0, 0), timeout=10)
    await eventually(lambda: open_descriptors() <= descriptors, timeout=10)


def others():
    return asyncio.all_tasks() - {asyncio.current_task()}


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))
