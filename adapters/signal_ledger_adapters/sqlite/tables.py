"""The tables as SQLAlchemy knows them, for audit queries."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from signal_ledger.instants import from_text, to_text
from signal_ledger.stored import StoredEvent


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime, kept as ISO 8601 text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Write it."""
        return None if value is None else to_text(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002
        """Read it."""
        return None if value is None else from_text(value)


metadata = MetaData()

events = Table(
    "signal_ledger_events",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("job_id", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("run", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("execution", Integer),
    Column("attempt", Integer),
    Column("channel", Text),
    Column("ordinal", Integer),
    Column("signal_id", Text),
    Column("delivery_version", Integer),
    Column("key", Text),
    Column("source", Text),
    Column("deadline_at", Instant),
    Column("cause", Text),
    Column("outcome", Text),
    Column("payload", LargeBinary),
    Column("payload_digest", Text),
    Column("dep", Text),
    Column("plan", Text),
    Column("checksum", Text, nullable=False),
)

event_columns = [events.c.position, *(events.c[name] for name in StoredEvent._fields)]

waits = Table(
    "signal_ledger_waits",
    metadata,
    Column("job_id", Integer, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("recorded_at", Text),
    Column("status", Text, nullable=False),
    Column("current", Text),
    Column("ordinal", Integer),
    Column("since", Instant),
    Column("deadline_at", Instant),
    Column("execution", Integer, nullable=False),
    Column("waits", Text, nullable=False),
    Column("inboxes", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
)

state_columns = [
    waits.c[name]
    for name in (
        "run", "version", "recorded_at", "status", "current", "execution", "waits", "inboxes", "schema_version",
    )
]  # fmt: skip

outbox = Table(
    "signal_ledger_outbox",
    metadata,
    Column("place", Integer, primary_key=True),
    Column("signal_id", Text, nullable=False),
    Column("job_id", Integer, nullable=False),
    Column("channel", Text, nullable=False),
    Column("key", Text),
    Column("source", Text),
    Column("stored_at", Instant, nullable=False),
    Column("refusal", Text),
)

steps = Table(
    "signal_ledger_steps",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("job_id", Integer, nullable=False),
    Column("plan", Text, nullable=False),
    Column("held", Integer, nullable=False),
    Column("planned_at", Text, nullable=False),
    Column("ended_as", Text),
    Column("ended_at", Text),
)

edges = Table(
    "signal_ledger_edges",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("dep", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("ended_as", Text),
)

repairs = Table(
    "signal_ledger_repairs",
    metadata,
    Column("job_id", Integer, primary_key=True),
    Column("cause", Text, nullable=False),
)
