"""Acknowledging jobs: those that wait are put to sleep in the same transaction.

In one READ COMMITTED transaction, first Oban's own statements, then ours as a second one: it sees what was delivered
until then, and who delivers later finds the job asleep. Everything else loses signals.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import psycopg
from psycopg.rows import tuple_row

from signal_ledger.commands import Snooze
from signal_ledger.execution import Sleep, snoozed
from signal_ledger.jobs import CANCELLED_WHILE_WAITING
from signal_ledger.telemetry.names import SNOOZED
from signal_ledger.telemetry.registry import execute, observed
from signal_ledger_adapters.oban.store import Statements
from signal_ledger_adapters.oban_api import (
    AckAction,
    Acknowledge,
    Query,
    acknowledge_on,
    execution_of,
    pipelined_transaction,
)

logger = logging.getLogger(__name__)

_CONFLICTS_MAX = 20
_LOSSES_MAX = 2
_DELAY_S = 0.01
_LATER_S = 1

# Rolled back by the database because of another transaction: the same again will do.
_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

# Of SQLSTATE: the connection failed; the server shuts down, or starts; it has too many connections.
_LOST_CLASSES = ("08", "57P", "53300")

_SET_UP = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"


async def acknowledge(
    previous: Acknowledge, query: Query, acks: Sequence[AckAction], statements: Statements | None
) -> list[int]:
    """Acknowledge jobs.

    Args:
        previous: Oban's way to do it.
        query: Whose jobs they are.
        acks: How they ended.
        statements: What puts to sleep; None if no ledger was ever attached.

    Returns:
        The ids of the jobs that were still theirs to acknowledge.
    """
    # Everyone locks jobs in ascending order, or there would be deadlocks.
    ordered = sorted(acks, key=lambda ack: ack.id or 0)
    if not ordered or statements is None:
        return await _try_again(lambda: previous(query, ordered))
    waits = {ack.id or 0: wait for ack in ordered if (wait := _wait_of(ack)) is not None}
    try:
        done, asleep = await _try_again(lambda: _with_waits(previous, query, ordered, waits, statements))
    except Exception as error:
        # A queue whose acknowledgements keep failing starts no more jobs. Without a database nothing can be done.
        if not waits or _is_lost(error):
            raise
        if len(ordered) > 1:
            logger.warning("%d jobs are acknowledged one by one: %s", len(ordered), error)
            return [done for ack in ordered for done in await acknowledge(previous, query, [ack], statements)]
        logger.exception("job %s: the ledger failed; the job runs again in %d s", ordered[0].id, _LATER_S)
        return await _try_again(lambda: previous(query, [replace(ordered[0], schedule_in=_LATER_S)]))
    for wait in asleep:
        execute(SNOOZED, snoozed(wait))
    return done


async def _with_waits(
    previous: Acknowledge,
    query: Query,
    acks: list[AckAction],
    waits: Mapping[int, Snooze],
    statements: Statements,
) -> tuple[list[int], list[Snooze]]:
    """Acknowledge, and put to sleep.

    Return the jobs that were acknowledged; and the waits on which some of them sleep now, if somebody listens to that.
    """
    replies = None
    async with pipelined_transaction(query) as connection:
        if waits:
            await connection.execute(_SET_UP)
        done = await acknowledge_on(previous, query, connection, acks)
        # Superseded executions have acknowledged nothing.
        waiting = [waits[job_id] for job_id in sorted(done) if job_id in waits]
        if waiting:
            # Whatever rows the application's pool makes.
            replies = connection.cursor(row_factory=tuple_row)
            await replies.execute(statements.snooze.encode(), _parameters(waiting))
    if replies is None or SNOOZED not in observed:
        return done, []
    # They have come with the commit: nobody waits for them before.
    told = await replies.fetchall()
    return done, [wait for wait, [reply] in zip(waiting, told, strict=True) if reply == "asleep"]


async def _try_again[R](run: Callable[[], Awaitable[R]]) -> R:
    """Run a transaction until other transactions, or a connection that broke, are not in its way.

    It may have been committed although the connection broke: then the next try finds the jobs acknowledged.
    """
    conflicts = losses = 0
    while True:
        try:
            return await run()
        except psycopg.Error as error:
            if isinstance(error, _CONFLICTS):
                conflicts += 1
            elif _is_lost(error):
                losses += 1
            else:
                raise
            if conflicts > _CONFLICTS_MAX or losses > _LOSSES_MAX:
                raise
            logger.debug("an acknowledgement is tried again: %s", error)
        await asyncio.sleep(_DELAY_S)


def _is_lost(error: Exception) -> bool:
    """Say whether the server could not be reached, or sent us away."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    code = error.sqlstate
    return code is None or code.startswith(_LOST_CLASSES)


def _wait_of(ack: AckAction) -> Snooze | None:
    execution = execution_of(ack.job)
    ending = None if execution is None else execution.ending
    return ending.wait if isinstance(ending, Sleep) and ack.state == "scheduled" else None


def _parameters(waits: Sequence[Snooze]) -> list[object]:
    return [
        [wait.job_id for wait in waits],
        [wait.execution for wait in waits],
        [wait.channel for wait in waits],
        [wait.ordinal for wait in waits],
        [wait.wait_for for wait in waits],
        CANCELLED_WHILE_WAITING,
    ]
