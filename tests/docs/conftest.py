"""For pages whose examples need PostgreSQL: a database of their own, on a scratch cluster."""

import itertools

import psycopg
import pytest
from oban.schema import install_sql

from tests.postgres.conftest import cluster

__all__ = ["cluster"]

numbers = itertools.count(1)


@pytest.fixture
def oban_url(cluster):
    """The URL of a fresh database that has Oban's tables and nothing else."""
    name = f"page_{next(numbers)}"
    url = cluster.create_database(name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(install_sql())
    yield url
    cluster.drop_database(name)
