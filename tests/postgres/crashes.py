"""Crashes of what speaks to PostgreSQL, and of PostgreSQL itself.

Each comes in the middle of a transaction that has changed everything and has not committed: none of that must be found.
"""

import contextlib
from uuid import uuid4

import psycopg

from signal_ledger.delivery import Sender
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.postgres.faults.server import crash

MORTAL = "signal-ledger-mortal"
"""The sessions that are to die have this for their name, with the schema."""

# What triggers and functions do in it is the half of a run: it is signalled, ends, and its dependants are told.
HALF_DONE = """
SELECT count(ledger.signal(j.id, '\\x836a')) FROM oban.oban_jobs AS j;
UPDATE oban.oban_jobs SET state = 'discarded', discarded_at = timezone('UTC', ledger.clock());
SET CONSTRAINTS ALL IMMEDIATE;
DELETE FROM oban.oban_jobs;
"""

IDS = "SELECT last_value, is_called FROM oban_jobs_id_seq"

KILL = """
SELECT count(*), bool_and(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s
"""


async def open_mortal(url, names=Names()):  # noqa: B008 - a value
    """Open a store whose sessions can be told from those of others."""
    named = to_url(url).update_query_dict({"application_name": _name(names)})
    return await PostgresStore.open(named, names)


async def kill_clients(bench, url, names=Names()):  # noqa: B008 - a value
    """Let all clients die, and their sessions with them, in the middle of what they do; go on with another store."""
    async with _half_done(bench, names):
        with psycopg.connect(url, autocommit=True) as connection:
            [killed, are_gone] = connection.execute(KILL, [_name(names)]).fetchone()
    assert killed >= 2
    assert are_gone
    await bench.store.close()
    bench.go_on_with(await open_mortal(url, names))


async def crash_server(bench, cluster, url):
    """Let the server crash and start again, in the middle of what clients do. Return the bench's new connection."""
    with psycopg.connect(url) as connection:
        ids = connection.execute(IDS).fetchone()
    async with _half_done(bench, Names()):
        crash(cluster)
    await bench.store.close()
    connection = psycopg.connect(url, autocommit=True)
    # A sequence writes down 32 numbers at once, and goes on behind them after a crash. The reference does not.
    connection.execute("SELECT setval('oban_jobs_id_seq', %s, %s)", ids)
    bench.go_on_with(await open_mortal(url), connection)
    return connection


@contextlib.asynccontextmanager
async def _half_done(bench, names):
    """The transaction of a caller that has done much and will not commit."""
    connection = await bench.connect(application_name=_name(names))
    try:
        [jobs, last] = await (
            await connection.execute(names.put_into("SELECT count(*), max(id) FROM oban.oban_jobs"))
        ).fetchone()
        if jobs:
            sender = Sender(store=bench.store, new_id=lambda: str(uuid4()))
            await sender.send(last, "never", channel=None, key=None, source="lost", conn=connection, timeout=10)
        await connection.execute(names.put_into(HALF_DONE))
        yield
    finally:
        await connection.close()


def _name(names):
    return f"{MORTAL}-{names.schema}"[:63]
