"""The tables, for audit queries by SQLAlchemy. ``ledger`` and ``oban`` are translated to the real schemas."""

from sqlalchemy import BigInteger, Column, DateTime, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.types import NullType

from signal_ledger.stored import StoredEvent

SCHEMA = "ledger"
OBAN_SCHEMA = "oban"

JOB_INSTANTS = ("inserted_at", "scheduled_at", "attempted_at", "cancelled_at", "completed_at", "discarded_at")
"""Oban keeps them in UTC, without saying so."""

metadata = MetaData(schema=SCHEMA)

_Instant = DateTime(timezone=True)

events = Table(
    "events",
    metadata,
    Column("position", BigInteger, nullable=False),
    Column("turn", BigInteger, nullable=False),
    Column("job_id", BigInteger, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("recorded_at", _Instant, nullable=False),
    Column("execution", BigInteger),
    Column("attempt", Integer),
    Column("channel", Text),
    Column("ordinal", Integer),
    Column("signal_id", Text),
    Column("delivery_version", Integer),
    Column("key", Text),
    Column("source", Text),
    Column("deadline_at", _Instant),
    Column("cause", Text),
    Column("outcome", Text),
    Column("payload", LargeBinary),
    Column("payload_digest", Text),
    Column("dep", Text),
    Column("plan", Text),
    Column("checksum", Text, nullable=False),
)

event_columns = [events.c.turn, events.c.position, *(events.c[name] for name in StoredEvent._fields)]

waits = Table(
    "waits",
    metadata,
    Column("job_id", BigInteger, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("recorded_at", _Instant),
    Column("status", Text, nullable=False),
    Column("current", Text),
    Column("ordinal", Integer),
    Column("since", _Instant),
    Column("deadline_at", _Instant),
    Column("execution", BigInteger, nullable=False),
    # Arrays of composite types: the driver reads them as records.
    Column("waits", NullType, nullable=False),
    Column("inboxes", NullType, nullable=False),
    Column("schema_version", Integer, nullable=False),
)

blocks = Table(
    "blocks",
    metadata,
    Column("turn", BigInteger, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("low", _Instant, nullable=False),
    Column("high", _Instant, nullable=False),
    Column("delivered", Integer, nullable=False),
    Column("unnamed", Integer, nullable=False),
    Column("peak", _Instant, nullable=False),
    Column("crest", _Instant, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("place", BigInteger, primary_key=True),
    Column("signal_id", Text, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("channel", Text, nullable=False),
    Column("key", Text),
    Column("source", Text),
    Column("stored_at", _Instant, nullable=False),
    Column("refusal", Text),
)

steps = Table(
    "steps",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("job_id", BigInteger),
    Column("plan", Text),
    Column("held", Integer, nullable=False),
    Column("planned_at", _Instant),
    Column("ended_as", Text),
    Column("ended_at", _Instant),
)

edges = Table(
    "edges",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("dep", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("ended_as", Text),
)

jobs = Table(
    "oban_jobs",
    metadata,
    Column("id", BigInteger, primary_key=True),
    # An enumeration of Oban's.
    Column("state", NullType, nullable=False),
    Column("queue", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    # Read as JSON: in the schema of Oban for Elixir, errors are an array of it.
    Column("args", NullType, nullable=False),
    Column("meta", NullType, nullable=False),
    Column("tags", NullType, nullable=False),
    Column("errors", NullType, nullable=False),
    Column("attempted_by", NullType, nullable=False),
    *(Column(name, DateTime(timezone=False)) for name in JOB_INSTANTS),
    schema=OBAN_SCHEMA,
)

repairs = Table("repairs", metadata, Column("job_id", BigInteger, primary_key=True), Column("cause", Text))
