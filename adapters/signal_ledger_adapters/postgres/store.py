"""The PostgreSQL store: the log beside Oban's tables, written by database functions only."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from signal_ledger.codec import decode, encode_with_digest
from signal_ledger.commands import Deliver, Take
from signal_ledger.decisions import Conflict, DeliverReply, TakeRefusal, TakeReply
from signal_ledger.errors import KeyConflict, PayloadError
from signal_ledger.names import Execution, JobId
from signal_ledger.operations import DeliverCall
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import EventFilter, StoreUnavailableError, WaitingJob
from signal_ledger.recorded import RecordedEvent
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.steps import SeenStep
from signal_ledger.stored import SCHEMA_VERSION
from signal_ledger.telemetry.registry import observed
from signal_ledger.telemetry.tracing import TRACES
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.postgres.asking import TIMEOUT_S, Asking
from signal_ledger_adapters.postgres.audit import Audit, PostgresSnapshot
from signal_ledger_adapters.postgres.callers import store_signals
from signal_ledger_adapters.postgres.connection import create_engine, dispose, driver_of, own_process
from signal_ledger_adapters.postgres.installed import check
from signal_ledger_adapters.postgres.lanes import JobHeldError, Lanes
from signal_ledger_adapters.postgres.rows import DeliverRow, columns_of, newer, to_deliver_reply, to_take_reply
from signal_ledger_adapters.postgres.schema import Names

POLL_S = 0.1
"""How often a follower looks for new events."""

RELAY_ROWS_MAX = 250
RELAY_BYTES_MAX = 4 * 1024 * 1024
"""How much of the outbox one transaction relays; the next follows at once."""

_RELAY_DELAYS_S = (0.01, 0.02, 0.05, 0.1)

_REBUILD_AT_ONCE = 100

_DELIVER_ONE = """
SELECT outcome, version, signal_id, reason, job_id
FROM ledger.deliver_one($1::boolean, $2::bigint, $3::text, $4::text, $5::bytea, $6::text, $7::text, $8::text, $9::text,
                        $10::integer)
"""

_DELIVER = """
SELECT outcomes, versions, ids, reasons, jobs
FROM ledger.deliver_batch($1::integer[], $2::boolean[], $3::bigint[], $4::text[], $5::text[], $6::bytea[],
                          $7::text[], $8::text[], $9::text[], $10::text[], $11::integer)
"""

_DELIVER_TRACED = """
SELECT outcomes, versions, ids, reasons, jobs
FROM ledger.deliver_traced($1::integer[], $2::boolean[], $3::bigint[], $4::text[], $5::text[], $6::bytea[],
                           $7::text[], $8::text[], $9::text[], $10::text[], $11::integer, $12::text[])
"""

_TAKE = """
SELECT reply, signal_id, payload, deadline_at, remaining, expected, recorded_at, delivered_at, traceparent
FROM ledger.take($1::bigint[], $2::bigint[], $3::text[], $4::integer[], $5::interval[], $6::boolean[], $7::boolean[],
                 $8::integer, $9::boolean)
"""

_LOOK = "SELECT job_id FROM ledger.look($1::bigint[], $2::bigint[])"

_FIRST = """
SELECT e.payload FROM ledger.events AS e
WHERE e.job_id = $1::bigint AND e.signal_id = $2::text AND e.kind = 'delivered'
"""

_TICK = "SELECT ledger.tick($1::integer)"

UPKEEP_ROWS_MAX = 1000
"""How many jobs one tick releases or repairs; the next follows in a second."""

_UPKEEP_TIMEOUT_S = 5.0

_WRITE_BLOCKS = "SELECT ledger.write_blocks($1::integer)"

_BLOCKS_AT_ONCE = 64
"""How many blocks of the log one tick writes: of 16,384 events, in some 30 ms."""

_LEDGER_ID = "SELECT ledger.identity()"

_RELAY = "SELECT relayed, is_left FROM ledger.relay($1::integer, $2::bigint)"

type _Question = Callable[[asyncpg.Connection], Awaitable[Any]]


class PostgresStore:
    """See `signal_ledger.ports.LedgerStore`. Get one from `open`.

    Args:
        engine: Pools the connections of those who have time.
        prompt: Makes those of calls that must be answered in time.
        names: Where things are.
        ledger_id: Which ledger it is, whatever a caller's own connection is connected to.
        can_write: Whether it may write.
        timeout_s: How long those who have time wait for each answer.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        prompt: AsyncEngine,
        names: Names,
        ledger_id: str,
        *,
        can_write: bool,
        timeout_s: float,
    ) -> None:
        self._engine = engine
        self._prompt = prompt
        self._names = names
        self._can_write = can_write
        self._own_process = own_process()
        self._asking = Asking(engine, timeout_s)
        self._audit = Audit(self._asking, names.schema)
        self._deliver_sql = names.put_into(_DELIVER)
        self._deliver_one_sql = names.put_into(_DELIVER_ONE)
        self._deliver_traced_sql = names.put_into(_DELIVER_TRACED)
        self._take_sql = names.put_into(_TAKE)
        self._deliveries = Lanes[DeliverCall, list[DeliverReply]](prompt, self._deliver_batch, lanes=2, what="deliver")
        self._takes = Lanes[Take, TakeReply | TakeRefusal](prompt, self._take_batch, lanes=2, what="take")
        self._questions = Lanes[_Question, Any](prompt, self._ask, lanes=1)
        self._look_sql = names.put_into(_LOOK)
        self._tick_sql = names.put_into(_TICK)
        self._write_blocks_sql = names.put_into(_WRITE_BLOCKS)
        self._relay_sql = names.put_into(_RELAY)
        self._relays = Lanes[None, tuple[int, bool]](prompt, self._relay_batch, lanes=1)
        self._ledger_id = ledger_id

    @property
    def ledger_id(self) -> str:
        """Which ledger it is, whatever its URL."""
        return self._ledger_id

    @classmethod
    async def open(cls, url: URL, names: Names, *, read_only: bool = False, timeout_s: float = TIMEOUT_S) -> Self:
        """Connect, and check that the schema is there and of this version.

        Raises:
            SchemaError: It is missing, old, newer or another Oban's; the message says what to do.
            TimeoutError: The database did not answer in time.
            StoreUnavailableError: It could not be reached.
        """
        engine = create_engine(url, names)
        try:
            asking = Asking(engine, timeout_s)
            await asking.require_sessions()
            await check(asking, names, can_write=not read_only)
            async with asking.connection() as connection:
                ledger_id = await (await driver_of(connection)).fetchval(names.put_into(_LEDGER_ID))
        except BaseException:
            await dispose(engine)
            raise
        prompt = create_engine(url, names, pools=False)
        return cls(engine, prompt, names, ledger_id, can_write=not read_only, timeout_s=timeout_s)

    async def close(self) -> None:
        """Finish what has been asked for and close the connections. In a fork, leave them to their process."""
        self._own_process.require()
        async with AsyncExitStack() as stack:
            for engine in (self._engine, self._prompt):
                stack.push_async_callback(dispose, engine)
            for lanes in (self._questions, self._relays, self._takes, self._deliveries):
                stack.push_async_callback(lanes.close)

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:
        """See `signal_ledger.ports.LedgerStore`, as for all methods below."""
        self._require_writing()
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while True:
            try:
                # Its deliveries have one payload, which is sent once.
                size = len(call.deliveries[0].payload)
                return await self._deliveries.submit(
                    call, rows=len(call.deliveries), size=size, timeout_s=max(0.0, ends - loop.time())
                )
            except KeyConflict as conflict:
                equal = await self._with_found_digest(call, conflict, max(0.0, ends - loop.time()))
                if equal is None:
                    raise
                call = equal

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        self._own_process.require()
        await store_signals(connection, self._names, self._ledger_id, deliveries)

    async def relay(self) -> int:
        """Deliver what callers have stored in their own transactions, and return how many signals that were (D8).

        Any number of processes may do so at once. What somebody else holds just now is left for the next time, if it
        does not become free within moments.

        Raises:
            StoreUnavailableError: Try again later.
            TimeoutError: The database did not answer.
        """
        self._require_writing()
        total = 0
        delays = iter(_RELAY_DELAYS_S)
        while True:
            relayed, is_left = await self._relays.submit(None)
            total += relayed
            if not is_left:
                return total
            if relayed == 0:
                delay_s = next(delays, None)
                if delay_s is None:
                    return total
                await asyncio.sleep(delay_s)

    async def take(self, take: Take) -> TakeReply | TakeRefusal:
        self._require_writing()
        try:
            return await self._takes.submit(take)
        except (asyncpg.PostgresError, TimeoutError) as error:
            # Whatever the database's trouble is, the job that waits has no part in it.
            raise StoreUnavailableError(f"an outcome could not be taken: {type(error).__name__}: {error}") from error

    async def look(self, live: Sequence[tuple[JobId, Execution]]) -> list[JobId]:
        """Return which of these live waits should take: a signal, a cancel or a newer execution is there.

        Raises:
            StoreUnavailableError: Try again later.
            TimeoutError: The database did not answer.
        """

        async def look(connection: asyncpg.Connection) -> list[JobId]:
            job_ids, executions = [wait[0] for wait in live], [wait[1] for wait in live]
            return [JobId(row["job_id"]) for row in await connection.fetch(self._look_sql, job_ids, executions)]

        asked: list[JobId] = await self._questions.submit(look, timeout_s=_UPKEEP_TIMEOUT_S)
        return asked

    async def tick(self) -> int:
        """Release the waits whose deadline has passed, append the ends of runs that could not be, and write blocks.

        Old traces are forgotten, too. Return how many ends of runs were appended.

        Raises:
            StoreUnavailableError: Try again later.
            TimeoutError: The database did not answer.
        """

        async def tick(connection: asyncpg.Connection) -> int:
            repaired: int = await connection.fetchval(self._tick_sql, UPKEEP_ROWS_MAX)
            # Behind the others, in a transaction of its own: it can wait.
            await connection.fetchval(self._write_blocks_sql, _BLOCKS_AT_ONCE)
            return repaired

        repaired: int = await self._questions.submit(tick, timeout_s=_UPKEEP_TIMEOUT_S)
        return repaired

    async def state(self, job_id: JobId) -> WaitState:
        return await self._audit.state(job_id)

    async def history(self, job_id: JobId, *, cursor: str | None = None) -> list[RecordedEvent]:
        return await self._audit.history(job_id, cursor=cursor)

    async def job(self, job_id: JobId) -> RecordedJob | None:
        return await self._audit.job(job_id)

    async def is_settled(self, instant: datetime) -> bool:
        return bool(await self._call("SELECT ledger.is_settled($1::timestamptz)", instant))

    async def waiting(
        self, *, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None
    ) -> list[WaitingJob]:
        return await self._audit.waiting(channel=channel, deadline_before=deadline_before, limit=limit, after=after)

    async def waits_of(self, job_ids: Sequence[JobId]) -> list[WaitingJob]:
        return await self._audit.waits_of(job_ids)

    async def page(self, wanted: EventFilter, limit: int) -> list[RecordedEvent]:
        return await self._audit.page(wanted, limit)

    async def outbox(self, *, limit: int, after: str | None) -> list[StoredSignal]:
        return await self._audit.outbox(limit=limit, after=after)

    async def steps(self, workflow_id: str) -> list[SeenStep]:
        return await self._audit.steps(workflow_id)

    async def retry_steps(self, workflow_id: str, names: Sequence[str]) -> int:
        self._require_writing()
        taken_up = await self._call("SELECT ledger.retry_steps($1::text, $2::text[])", workflow_id, list(names))
        return int(taken_up)

    async def end(self) -> str | None:
        return await self._audit.end()

    def mark(self) -> int:
        # Nothing tells of other processes' commits: `changed` waits for a moment instead.
        return 0

    async def changed(self, mark: int) -> None:
        del mark
        await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[PostgresSnapshot, None]:
        async with self._asking.asked(in_order=True) as asked:
            with asked.answers():
                options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
                _ = await asked.connection.execution_options(**options)
            yield PostgresSnapshot(asked)

    async def rebuild(self, *, progress: Callable[[int], object] | None = None) -> int:
        self._require_writing()
        count, after = 0, -(2**63)
        while found := await self._call("SELECT ledger.rebuild($1::bigint, $2::integer)", after, _REBUILD_AT_ONCE):
            count, after = count + len(found), found[-1]
            if progress is not None:
                progress(count)
        await self._call("SELECT ledger.drop_orphans()")
        # Edges go from step to step: all steps are there now.
        after = -(2**63)
        while found := await self._call(
            "SELECT ledger.rebuild_edges($1::bigint, $2::integer)", after, _REBUILD_AT_ONCE
        ):
            after = found[-1]
        await self._call("SELECT ledger.forget_blocks()")
        while await self._call("SELECT ledger.rewrite_blocks($1::integer)", _BLOCKS_AT_ONCE):
            pass
        return count

    async def _call(self, sql: str, *arguments: object) -> Any:  # noqa: ANN401 - what the function returns
        """Run a function in a transaction of its own."""
        async with self._asking.connection() as connection:
            return await (await driver_of(connection)).fetchval(self._names.put_into(sql), *arguments)

    async def _with_found_digest(
        self, call: DeliverCall, conflict: KeyConflict, timeout_s: float
    ) -> DeliverCall | None:
        """Return a call with the digest that the first delivery has, if that has an equal payload after all.

        Another program has written that one: its digest is of its own bytes, which need not be those of this library.
        """
        if conflict.difference != "payload":
            return None
        first = await self._questions.submit(
            lambda connection: connection.fetchval(self._names.put_into(_FIRST), conflict.job_id, conflict.signal_id),
            timeout_s=timeout_s,
        )
        [delivery] = [delivery for delivery in call.deliveries if delivery.job_id == conflict.job_id]
        if first is None or hashlib.sha256(first).hexdigest() == delivery.payload_digest:
            return None
        try:
            is_equal = encode_with_digest(decode(first)).digest == delivery.payload_digest
        except PayloadError:
            return None
        if not is_equal:
            return None
        found = replace(delivery, payload_digest=hashlib.sha256(first).hexdigest())
        return replace(call, deliveries=tuple([found if other is delivery else other for other in call.deliveries]))

    async def _deliver_batch(
        self, connection: asyncpg.Connection, calls: Sequence[DeliverCall], patience_ms: int
    ) -> list[list[DeliverReply] | Exception]:
        traceparents = [call.deliveries[0].traceparent for call in calls] if TRACES in observed else []
        is_traced = any(traceparents)
        if len(calls) == 1 and len(calls[0].deliveries) == 1 and not is_traced:
            [delivery] = calls[0].deliveries
            row = await connection.fetchrow(
                self._deliver_one_sql,
                delivery.is_first_try,
                delivery.job_id,
                delivery.signal_id,
                delivery.channel,
                delivery.payload,
                delivery.payload_digest,
                delivery.key,
                ",".join(delivery.key_ids),
                delivery.source,
                patience_ms,
            )
            return [_replies(calls[0], [row])]
        deliveries = [delivery for call in calls for delivery in call.deliveries]
        columns = await connection.fetchrow(
            self._deliver_traced_sql if is_traced else self._deliver_sql,
            [number for number, call in enumerate(calls, 1) for _ in call.deliveries],
            *columns_of(deliveries, "is_first_try", "job_id", "signal_id", "channel"),
            [call.deliveries[0].payload for call in calls],
            *columns_of(deliveries, "payload_digest", "key"),
            [",".join(delivery.key_ids) for delivery in deliveries],
            [delivery.source for delivery in deliveries],
            patience_ms,
            *([traceparents] if is_traced else []),
        )
        rows = list(zip(*columns, strict=True))
        results: list[list[DeliverReply] | Exception] = []
        place = 0
        for call in calls:
            own = rows[place : place + len(call.deliveries)]
            place += len(call.deliveries)
            results.append(_replies(call, own))
        return results

    async def _take_batch(
        self, connection: asyncpg.Connection, takes: Sequence[Take], patience_ms: int
    ) -> list[TakeReply | TakeRefusal | Exception]:
        rows = await connection.fetch(
            self._take_sql,
            *columns_of(takes, "job_id", "execution", "channel", "ordinal", "wait_for", "in_place", "window"),
            patience_ms,
            any(take.wants_trace for take in takes),
        )
        return [
            _unanswered(take.job_id, row["reply"]) or to_take_reply(row) for take, row in zip(takes, rows, strict=True)
        ]

    async def _relay_batch(
        self, connection: asyncpg.Connection, calls: Sequence[None], _patience_ms: int
    ) -> list[tuple[int, bool] | Exception]:
        """One relay serves all who ask for one; the first is told how many signals it was."""
        relayed, is_left = await connection.fetchrow(self._relay_sql, RELAY_ROWS_MAX, RELAY_BYTES_MAX)
        return [(relayed, is_left), *[(0, is_left) for _ in calls[1:]]]

    async def _ask(
        self, connection: asyncpg.Connection, questions: Sequence[_Question], _patience_ms: int
    ) -> list[Any]:
        return [await question(connection) for question in questions]

    def _require_writing(self) -> None:
        if not self._can_write:
            raise RuntimeError("expected a ledger that can be written, this one was opened read-only")


def _replies(call: DeliverCall, rows: Sequence[DeliverRow]) -> list[DeliverReply] | Exception:
    replies: list[DeliverReply] = []
    for delivery, row in zip(call.deliveries, rows, strict=True):
        outcome, version, signal_id, reason, job_id = row
        if unanswered := _unanswered(delivery.job_id, outcome):
            return unanswered
        reply = to_deliver_reply(outcome, version, signal_id, reason)
        if isinstance(reply, Conflict):
            [conflicting] = [other for other in call.deliveries if other.job_id == job_id]
            return KeyConflict(
                job_id=conflicting.job_id,
                key=conflicting.key or "",
                signal_id=reply.signal_id,
                difference=reply.difference,
            )
        replies.append(reply)
    return replies


def _unanswered(job_id: JobId, reply: str) -> Exception | None:
    """Return why a call was not carried out, if that is what the database replies."""
    if reply == "held":
        return JobHeldError()
    return newer(job_id, 0, SCHEMA_VERSION + 1) if reply == "newer" else None
