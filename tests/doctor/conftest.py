"""Databases to look over: SQLite files, and those of the clusters that tests share."""

import contextlib

import pytest

from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.postgres.conftest import cluster, database, ledger_url, numbers, template, template_of_fresh
from tests.postgres.version import wanted_version
from tests.sqlite.conftest import path

__all__ = ["cluster", "database", "ledger_url", "path", "template", "template_of_fresh"]


@pytest.fixture
def fresh_url(cluster, template_of_fresh):
    """The URL of a fresh database with Oban's tables and a ledger as users have it."""
    name = f"fresh_{next(numbers)}"
    yield cluster.create_database(name, template=template_of_fresh)
    cluster.drop_database(name)


@contextlib.contextmanager
def another_cluster(**options):
    """A cluster of one's own, of the version that tests are run on."""
    with scratch_cluster(wanted_version(), **options) as own:
        yield own
