"""Hypothesis profiles: CI takes its time, a developer's run is short. Failures print what reproduces them."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.effort import share_of

common = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("developer", max_examples=60, stateful_step_count=40, **common)
settings.register_profile("ci", max_examples=share_of(120), stateful_step_count=60, derandomize=False, **common)
# A glance, which may well miss rare cases: `pytest property_tests --hypothesis-profile=few`.
settings.register_profile("few", max_examples=3, stateful_step_count=20, **common)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_addoption(parser):
    parser.addoption(
        "--signal-ledger-url",
        metavar="URL",
        help="the database that the property suites run against: sqlite:///... (files beside the one that is named) or "
        "postgresql://... (two schemas of random names, dropped in the end); temporary SQLite files unless given",
    )


@pytest.fixture(scope="session")
def stores(request):
    """What goes before a machine among the bases of a class, so that it compares the stores of the URL."""
    from property_tests.sites import stores_at

    with stores_at(request.config.getoption("signal_ledger_url")) as bases:
        yield bases


@pytest.fixture
def is_glance():
    """Whether a run is so short that it may miss what it should meet."""
    return settings.get_current_profile_name() == "few"
