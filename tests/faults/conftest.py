import pytest

from tests.faults.strace import nursery, require_strace


@pytest.fixture(scope="session")
def traced():
    """A nursery of processes that strace can trace; skips where it cannot."""
    require_strace()
    with nursery() as started:
        yield started


@pytest.fixture(scope="session")
def doomed():
    """A nursery of processes that are killed at a system call of a thread."""
    require_strace()
    with nursery(doomed=True) as started:
        yield started
