"""Workflows on the embedded engine (promises F1 to F5)."""

import pytest

from tests.callers import make_engine, sqlalchemy_connection, sqlalchemy_session, with_aiosqlite
from tests.workflows import WorkflowContract

CALLERS = {
    "AsyncSession": lambda url, _path: sqlalchemy_session(make_engine(url, "aiosqlite")),
    "AsyncConnection": lambda url, _path: sqlalchemy_connection(make_engine(url, "aiosqlite")),
    "aiosqlite": lambda _url, path: with_aiosqlite(path),
}


class TestWorkflowsOnLite(WorkflowContract):
    @pytest.fixture
    def enqueue_many(self, it):
        return it.engine.enqueue_many

    @pytest.fixture(params=list(CALLERS))
    async def caller(self, request, url, path):
        async with CALLERS[request.param](url, path) as caller:
            yield caller
