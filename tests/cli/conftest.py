"""The databases that the program is asked about, made once; and copies of them for what changes something."""

import asyncio
import itertools
import logging
import shutil
import time
from dataclasses import replace

import pytest

from tests.cli.sites import make_on_postgres, make_on_sqlite
from tests.postgres.conftest import cluster, template_of_fresh

__all__ = ["cluster", "template_of_fresh"]

numbers = itertools.count(1)


@pytest.fixture
def _own_logging():
    """For the program in the tests' own process, whose log it sets up."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def _in_time_zone(request, monkeypatch):
    monkeypatch.setenv("TZ", getattr(request, "param", "Asia/Kathmandu"))
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def file_site(tmp_path_factory):
    return asyncio.run(make_on_sqlite(tmp_path_factory.mktemp("site") / "signals.db"))


@pytest.fixture(scope="session")
def server_site(cluster, template_of_fresh):
    url = cluster.create_database("furnished", template=template_of_fresh)
    return asyncio.run(make_on_postgres(url))


@pytest.fixture(params=["file_site", "server_site"])
def site(request):
    """A furnished database: look, and change nothing."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def own_file(file_site, tmp_path):
    """A copy of the SQLite file, to be changed."""
    path = tmp_path / "own.db"
    shutil.copy(file_site.path, path)
    return replace(file_site, url=f"sqlite:///{path}")


@pytest.fixture
def own_database(request, cluster, server_site):
    """A copy of the PostgreSQL database, to be changed."""
    name = f"own_{next(numbers)}"
    yield replace(server_site, url=cluster.create_database(name, template="furnished"))
    cluster.drop_database(name)


@pytest.fixture(params=["own_file", "own_database"])
def own_site(request):
    return request.getfixturevalue(request.param)
