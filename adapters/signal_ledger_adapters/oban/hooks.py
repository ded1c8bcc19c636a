"""What happens at Oban's extension points."""

import asyncio
import logging

from oban import Job

from signal_ledger.execution import when_stray
from signal_ledger.telemetry.names import REPAIRED
from signal_ledger.telemetry.registry import execute, observed
from signal_ledger_adapters.oban.acknowledge import acknowledge
from signal_ledger_adapters.oban.attachment import attachment_of
from signal_ledger_adapters.oban_api import (
    AckAction,
    Acknowledge,
    Fetch,
    OfQuery,
    Producer,
    Query,
    hook_engines,
    hook_workers,
    on_connection,
    put_off_early_job,
    query_of_producer,
    transaction,
)

logger = logging.getLogger(__name__)


def install() -> None:
    """Hook into Oban, once for the process.

    Jobs that are fetched from now on can wait for a ledger to be attached. One that was fetched before, and awaits, is
    put off for a second: Oban was started before its worker was imported, or before any name of `signal_ledger` was.
    """
    hook_workers()
    hook_engines(_Hooks())
    when_stray(put_off_early_job)


class _Hooks:
    """See `signal_ledger_adapters.oban_api.EngineHooks`."""

    async def fetch(self, previous: Fetch, producer: Producer) -> list[Job]:
        """Let the jobs wait."""
        fetched_at = asyncio.get_running_loop().time()
        jobs = await previous(producer)
        attachment = attachment_of(query_of_producer(producer))
        for job in jobs:
            attachment.admit(job, producer, fetched_at)
        return jobs

    async def acknowledge(self, previous: Acknowledge, query: Query, acks: list[AckAction]) -> list[int]:
        """Put those to sleep that wait, in the same transaction."""
        return await acknowledge(previous, query, acks, attachment_of(query).statements)

    async def before_stage(self, query: Query) -> None:
        """Release what is due and repair; whatever goes wrong there must not stop the stager (promise L3)."""
        attached = attachment_of(query).attached
        if attached is None:
            return
        try:
            repaired = await attached.store.tick()
        except Exception as error:  # noqa: BLE001 - told, and tried again in the next tick
            logger.warning("the ledger's upkeep failed; trying again: %s", error)
            return
        if repaired and REPAIRED in observed:
            execute(REPAIRED, {"count": repaired})

    async def reset(self, previous: OfQuery, query: Query) -> None:
        """Empty the ledger too: ids begin anew, and job 1 must not inherit a stream. Or refuse (promise L1)."""
        statements = attachment_of(query).statements
        if statements is None:
            await previous(query)
            return
        async with transaction(query) as connection:
            await connection.execute(statements.reset.encode())
            await previous(on_connection(query, connection))

    def stopping(self, producer: Producer) -> None:
        """Let live waits snooze, so that the stop is quick (promise W3)."""
        attachment_of(query_of_producer(producer)).room_of(producer).close()
