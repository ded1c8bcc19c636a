"""The queries and the types that the pages of the documentation tell of."""

import re
import sqlite3
from contextlib import closing

import pytest

from signal_ledger import lite
from tests.docs.pages import PAGES, ROOT, blocks, name
from tests.view_answers import PREFIX, VIEWS

REFERENCE = ROOT / "docs" / "reference" / "sqlite-views.md"

QUERIES = [
    pytest.param(query, id=f"{name(page)}:{block.line}.{number}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "sql"
    for number, query in enumerate(filter(str.strip, block.text.split(";")))
]


@pytest.fixture
async def connection(path):
    async with lite(f"sqlite:///{path}", queues={}):
        pass
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        yield connection


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_documentation_runs(connection, query):
    connection.execute(query).fetchall()


def test_there_are_queries_of_every_view():
    queries = "\n".join(parameter.values[0] for parameter in QUERIES)
    assert set(re.findall(rf"{PREFIX}(\w+)", queries)) == set(VIEWS)


def test_every_column_has_the_type_that_the_reference_says(connection):
    """As a table that is made from the view has it: the type is what values are compared by."""
    page = REFERENCE.read_text(encoding="utf-8")
    for view in VIEWS:
        section = page.partition(f"\n## `{PREFIX}{view}`\n")[2].partition("\n## ")[0]
        told = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
        with closing(sqlite3.connect(":memory:")) as memory:
            path = connection.execute("PRAGMA database_list").fetchone()[2]
            memory.execute("ATTACH ? AS file", (path,))
            memory.execute(f"CREATE TABLE copy AS SELECT * FROM file.{PREFIX}{view}")
            found = [(row[1], row[2]) for row in memory.execute("PRAGMA table_info(copy)")]
        assert [(column, {"INT": "INTEGER"}.get(type_, type_)) for column, type_ in found] == told, view
