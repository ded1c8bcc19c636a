"""The bench for the PostgreSQL store: Oban's own statements move the jobs, at the ledger's time."""

import contextlib
from collections import Counter
from datetime import timedelta

import psycopg
from oban._query import Query
from psycopg.types.json import Jsonb

from signal_ledger.jobs import JobState
from signal_ledger.names import Execution, JobId
from signal_ledger.testing.bench import JobSeen, Signaller
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.postgres.schema import Names

EMPTY = """
TRUNCATE ledger.events, ledger.waits, ledger.cancels, ledger.repairs, ledger.outbox, ledger.steps, ledger.edges,
    ledger.ends, ledger.blocks, ledger.traces, ledger.test_clock;
TRUNCATE oban.oban_jobs RESTART IDENTITY;
"""


def empty(connection, names=Names()):  # noqa: B008 - a value
    """Empty a ledger that was made with testing=True, and the jobs."""
    connection.execute(names.put_into(EMPTY))


class DatabaseClock(ManualClock):
    """A clock that tells the database, too."""

    def __init__(self, connection, names=Names()):  # noqa: B008 - a value
        super().__init__()
        self._connection = connection
        self._update = names.put_into("UPDATE ledger.test_clock SET now = %s")
        connection.execute(names.put_into("INSERT INTO ledger.test_clock VALUES (%s)"), [self()])

    def go_on_with(self, connection):
        """Tell by another connection."""
        self._connection = connection

    def advance(self, duration):
        super().advance(duration)
        self._connection.execute(self._update, [self()])


class PostgresBench:
    """See `signal_ledger.testing.bench.Bench`.

    Args:
        store: The store under test.
        connection: psycopg's, to the same database; each statement is a transaction.
        clock: The database's.
        names: Where the ledger and Oban's tables are.
    """

    def __init__(self, store, connection, clock, names=Names()):  # noqa: B008 - a value
        self._names = names
        self.store = store
        self.clock = clock
        self.signaller = Signaller(store)
        self._connection = connection
        self._fetched = Counter()

    def go_on_with(self, store, connection=None):
        """Go on with another store, and by another connection if the server has crashed."""
        self.store = store
        self.signaller.go_on_with(store)
        if connection is not None:
            self._connection = connection
            self.clock.go_on_with(connection)

    async def insert(self, *, scheduled_in=None, max_attempts=20, plan=None):
        scheduled_at = self.clock() + timedelta(seconds=scheduled_in or 0)
        state = "available" if scheduled_in is None else "scheduled"
        if plan is not None and plan.deps:
            state = "suspended"
        [[job_id]] = self._run(
            "INSERT INTO oban.oban_jobs (worker, queue, state, max_attempts, scheduled_at, meta) "
            "VALUES ('tests.Worker', gen_random_uuid()::text, %s, %s, timezone('UTC', %s::timestamptz), %s) "
            "RETURNING id",
            state,
            max_attempts,
            scheduled_at,
            Jsonb({} if plan is None else plan.to_meta()),
        )
        return JobId(job_id)

    async def fetch(self, job_id):
        found = self._run("SELECT queue FROM oban.oban_jobs WHERE id = %s", job_id)
        if not found:
            return None
        [[queue]] = found
        with self._connection.transaction():
            self._oban("stage_jobs", limit=10, queues=[queue], before=None)
            fetched = self._oban("fetch_jobs", queue=queue, demand=1, attempted_by=["bench"])
            if not fetched:
                return None
            # Tokens that count, as those of the embedded engine do, and never repeat though the clock stands still.
            self._fetched[job_id] += 1
            self._run(
                "UPDATE oban.oban_jobs SET attempted_at = timestamp 'epoch' + %s * interval '1 microsecond' "
                "WHERE id = %s",
                self._fetched[job_id],
                job_id,
            )
        return Execution(self._fetched[job_id])

    async def finish(self, job_id, execution, state, *, delay=0):
        waits = state in (JobState.RETRYABLE, JobState.SCHEDULED)
        attempt_change = -1 if state is JobState.SCHEDULED else None
        return bool(self._ack(job_id, execution, state, attempt_change, int(delay) if waits else None))

    async def sleep(self, job_id, execution, *, channel="", ordinal=1, wait_for=None):
        with self._connection.transaction():
            if not self._ack(job_id, execution, JobState.SCHEDULED, -1, 1):
                return False
            self._run(
                "SELECT * FROM ledger.snooze(%s::bigint[], %s::bigint[], %s::text[], %s::integer[], "
                "%s::interval[], %s::text)",
                [job_id],
                [execution],
                [channel],
                [ordinal],
                [None if wait_for is None else timedelta(seconds=wait_for)],
                "cancelled while waiting",
            )
        return True

    async def cancel(self, job_id):
        self._oban("cancel_many_jobs", ids=[job_id])

    async def retry(self, job_id):
        self._oban("retry_many_jobs", ids=[job_id])

    async def delete(self, job_id):
        self._oban("delete_many_jobs", ids=[job_id])

    async def rescue(self):
        self._oban("rescue_jobs", rescue_after=0)

    async def prune(self):
        self._oban("prune_jobs", max_age=-1, limit=1000)

    async def job(self, job_id):
        found = self._run("SELECT state::text, attempt, meta FROM oban.oban_jobs WHERE id = %s", job_id)
        if not found:
            return None
        [[state, attempt, meta]] = found
        return JobSeen(state=JobState(state), attempt=attempt, wait_until=meta.get("wait_until"))

    @contextlib.asynccontextmanager
    async def transaction(self):
        async with await self.connect() as connection:
            yield connection

    async def connect(self, **options):
        """Open another connection to the same database."""
        info = self._connection.info
        # The password is no part of the DSN.
        secret = {"password": info.password} if info.password else {}
        return await psycopg.AsyncConnection.connect(info.dsn, **secret, **options)

    async def relay(self):
        await self.store.relay()

    def _ack(self, job_id, execution, state, attempt_change, schedule_in):
        [[attempted_at]] = self._run("SELECT timestamp 'epoch' + %s * interval '1 microsecond'", execution)
        return self._oban(
            "ack_job",
            id=job_id,
            attempted_at=attempted_at,
            state=state.value,
            attempt_change=attempt_change,
            schedule_in=schedule_in,
            error=None,
            meta=None,
        )

    def _oban(self, name, **parameters):
        """Run a statement of Oban's, at the ledger's time."""
        sql = Query._load_file(f"{name}.sql", self._names.oban_prefix)
        cursor = self._connection.execute(sql.replace("now()", self._names.put_into("ledger.clock()")), parameters)
        return cursor.fetchall() if cursor.description else []

    def _run(self, sql, *parameters):
        cursor = self._connection.execute(self._names.put_into(sql), parameters)
        return cursor.fetchall() if cursor.description else []
