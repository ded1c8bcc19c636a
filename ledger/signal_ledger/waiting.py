"""`await_signal` and `signal`: the two functions that jobs and their surroundings call."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, overload

from signal_ledger.arguments import to_channel, to_duration
from signal_ledger.delivery import TIMEOUT_S, HasId
from signal_ledger.engines import only_engine
from signal_ledger.execution import current_execution, report_stray
from signal_ledger.receipt import Receipt


async def await_signal(
    wait_for: float | timedelta | None = None,
    wait_timeout: float | timedelta = 5.0,
    *,
    channel: str | None = None,
) -> Any:  # noqa: ANN401 - whatever was sent, as with json.loads
    """Wait inside a job for the next signal on a channel, durably.

    For ``wait_timeout`` the job waits live; then it is snoozed, and `process` runs again from its top when a signal
    arrives or the deadline passes. Awaits that have ended before return (or raise) again what they did then, so write
    `process` so that whatever stands before an await may run again.

    Args:
        wait_for: How long until the wait times out: seconds, a timedelta, or None for never. Counts from the first
            snooze; if it is not longer than ``wait_timeout``, from the start of the wait.
        wait_timeout: How long to wait live before the job is snoozed: seconds or a timedelta; 0 snoozes at once.
        channel: The channel to wait on: 1 to 255 bytes of text; None is the default channel.

    Returns:
        The payload, equal to what was sent and of the same type.

    Raises:
        SignalTimeout: The deadline passed. It is raised again in every later execution of the run: catch it.
        PayloadError: The stored payload is damaged. The next await gets the next signal.
        RuntimeError: The caller is no executing job, or its `process` has returned.
        TypeError: A duration or the channel is of another type.
        ValueError: A duration is negative, not finite or longer than 50 years, or the channel is unfit.

    Example:
        >>> import asyncio
        >>> from datetime import timedelta
        >>> from oban import worker
        >>> from signal_ledger import SignalTimeout, await_signal, lite
        >>>
        >>> @worker()
        ... class Purchase:
        ...     async def process(self, job):
        ...         try:
        ...             payload = await await_signal(wait_for=timedelta(days=1), channel="approval")
        ...         except SignalTimeout:
        ...             payload = {"decision": "forgotten"}
        ...         print(f"order {job.args['order']} is {payload['decision']}")
        >>>
        >>> async def main():
        ...     async with lite("sqlite:///signals.db") as engine:
        ...         job = await Purchase.enqueue({"order": 7})
        ...         await engine.signal(job, {"decision": "approved"}, channel="approval")
        ...         async for event in engine.ledger.follow():
        ...             if event.kind == "closed":
        ...                 break
        >>>
        >>> asyncio.run(main())
        order 7 is approved
    """
    duration = None if wait_for is None else to_duration("wait_for", wait_for)
    window = to_duration("wait_timeout", wait_timeout)
    stored_channel = to_channel(channel)
    execution = current_execution()
    if execution is None:
        report_stray()
        raise RuntimeError("await_signal: expected to be called inside a job's process, which an engine runs")
    return await execution.await_signal(duration, window, stored_channel)


@overload
async def signal(
    target: int | HasId,
    payload: object,
    *,
    channel: str | None = None,
    key: str | None = None,
    source: str | None = None,
    conn: object = None,
    timeout: float = TIMEOUT_S,  # noqa: ASYNC109
) -> Receipt: ...
@overload
async def signal(
    target: Iterable[int | HasId],
    payload: object,
    *,
    channel: str | None = None,
    key: str | None = None,
    source: str | None = None,
    conn: object = None,
    timeout: float = TIMEOUT_S,  # noqa: ASYNC109
) -> list[Receipt]: ...


async def signal(
    target: int | HasId | Iterable[int | HasId],
    payload: object,
    *,
    channel: str | None = None,
    key: str | None = None,
    source: str | None = None,
    conn: object = None,
    timeout: float = TIMEOUT_S,  # noqa: ASYNC109
) -> Receipt | list[Receipt]:
    """Deliver a signal to one job or to several. When it returns, the delivery is durable.

    Inside a job its engine is used, elsewhere the only one that is open in the process.

    With ``conn`` the signal is stored in the caller's own transaction instead, and the receipt says `stored`. If that
    is rolled back, the signal never was. From its commit on it is durable, and it is delivered within a second. What
    the job cannot get by then, since it has ended for instance, stays readable in `Ledger.outbox`.

    Args:
        target: A job id, a job, or an iterable of these. Several are one transaction: all or none.
        payload: Any value that erlpack can pack, at most 16 MiB encoded.
        channel: The channel: 1 to 255 bytes of text; None is the default channel.
        key: Makes the call idempotent: a second delivery to the job with this key writes nothing, for ever.
        source: Who or what signals, for the audit: 1 to 255 bytes of text.
        conn: The caller's own connection to the ledger's database: a SQLAlchemy ``AsyncSession`` or
            ``AsyncConnection``; or aiosqlite's connection on SQLite, psycopg's or asyncpg's on PostgreSQL.
        timeout: Bounds the call with its retries, in seconds; 30 unless given.

    Returns:
        A receipt for a single target, a list of them in the same order for several.

    Raises:
        PayloadError: The payload cannot be encoded; nothing was written.
        KeyConflict: The key belongs to a signal with another payload or channel; nothing was written. With ``conn``
            that is seen when the signal is delivered, and told by `Ledger.outbox`.
        DeliveryUnknown: Time was up; the error tells how to repeat the call safely. With ``conn``, roll back.
        RuntimeError: No engine is open, or more than one.
        TypeError: An argument is of another type than expected.
        ValueError: An argument is out of range, a job has not been enqueued, or the connection is to another database.

    Example:
        >>> import asyncio
        >>> from oban import Job
        >>> from signal_ledger import lite, signal
        >>>
        >>> async def main():
        ...     async with lite("sqlite:///signals.db", queues={}) as engine:
        ...         job = await engine.enqueue(Job("shop.Purchase"))
        ...         for _ in range(2):
        ...             receipt = await signal(job, {"decision": "approved"}, key="form 12", source="ada@example.com")
        ...             print(receipt.outcome, receipt.reason)
        >>>
        >>> asyncio.run(main())
        buffered None
        duplicate pending
    """
    execution = current_execution()
    engine = only_engine() if execution is None else execution.engine
    return await engine.signal(target, payload, channel=channel, key=key, source=source, conn=conn, timeout=timeout)
