"""For pages whose examples need PostgreSQL: a database of their own, on a scratch cluster."""

import itertools

import psycopg
import pytest
from oban.schema import install_sql

from signal_ledger_adapters.oban_api import instances
from tests.postgres.conftest import cluster

__all__ = ["cluster"]

numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def no_oban_stays_registered():
    """An Oban registers itself when it is made, and stays registered when it is stopped."""
    before = dict(instances)
    yield
    instances.clear()
    instances.update(before)


@pytest.fixture
def oban_url(cluster):
    """The URL of a fresh database that has Oban's tables and nothing else."""
    name = f"page_{next(numbers)}"
    url = cluster.create_database(name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(install_sql())
    yield url
    cluster.drop_database(name)
