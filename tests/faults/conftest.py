import pytest

from tests.faults.strace import nursery, require_strace


@pytest.fixture(scope="session")
def traced():
    """A nursery of processes that strace can trace; skips where it cannot."""
    require_strace()
    with nursery() as started:
        yield started
