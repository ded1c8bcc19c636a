"""Alembic's autogenerate leaves the ledger alone."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, create_engine

from signal_ledger_adapters.postgres.alembic import include_name


def proposed_drops(url, **options):
    """What an application that has one table of its own would be told to drop."""
    metadata = MetaData()
    Table("orders", metadata, Column("id", Integer, primary_key=True))
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_schemas": True, **options})
        differences = compare_metadata(context, metadata)
    engine.dispose()
    return {change[1].schema for change in differences if change[0] == "remove_table"}


@pytest.mark.filterwarnings("ignore:Did not recognize type")
def test_without_the_helper_alembic_would_drop_the_log(ledger_url):
    assert "signal_ledger" in proposed_drops(ledger_url)


def test_with_the_helper_it_leaves_the_ledger_alone(ledger_url):
    assert "signal_ledger" not in proposed_drops(ledger_url, include_name=include_name())


def test_another_filter_is_asked_as_well():
    include = include_name("audit", also=lambda name, _kind, _parents: name != "secret")
    assert [include(name, "table", {"schema_name": None}) for name in ("orders", "secret")] == [True, False]
    assert not include("events", "table", {"schema_name": "audit"})
