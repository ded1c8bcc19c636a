import pytest

from tests.kit.workers import SEEN


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()
