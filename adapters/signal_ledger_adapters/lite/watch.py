"""Notices what other processes do: their commits within tens of milliseconds, their deaths within a second."""

import asyncio
import logging

from signal_ledger.embedded.operations import Look, RelayOutbox, Repair, RescueJobs
from signal_ledger.ports import EmbeddedStore, StoreUnavailableError
from signal_ledger.telemetry.names import RELAYED, REPAIRED
from signal_ledger.telemetry.registry import execute, observed
from signal_ledger_adapters.lite.queue import Queue
from signal_ledger_adapters.lite.runner import Runner

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""How often to look whether anything was committed: a counter in shared memory, 0.5 % of a core."""

LOOK_S = 1.0
"""How often to look even if nothing was: a process that dies commits nothing."""


class Watch:
    """Looks, and sees to what it finds. What it costs does not depend on how many jobs wait.

    Args:
        store: What it watches.
        runner: Is told of jobs and cancels.
        queues: Their waiting rooms are told of signals.
        node: The engine's own id.
    """

    def __init__(self, *, store: EmbeddedStore, runner: Runner, queues: list[Queue], node: int) -> None:
        self._store = store
        self._runner = runner
        self._queues = queues
        self._node = node

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        mark: int | None = None
        next_look = 0.0
        while True:
            try:
                now_mark = self._store.mark()
                if now_mark != mark or loop.time() >= next_look:
                    # The mark is the one before the look: what is committed during it changes the next one.
                    mark = now_mark
                    next_look = loop.time() + LOOK_S
                    await self.look()
            except StoreUnavailableError as error:
                logger.warning("the database could not be watched; trying again: %s", error)
                await asyncio.sleep(LOOK_S)
            except Exception:
                logger.exception("the database could not be watched; trying again")
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(POLL_S)

    async def look(self) -> bool:
        """Look once, and see to what is found. Return whether anything was done."""
        live = tuple(job_id for queue in self._queues for job_id in queue.room.job_ids)
        seen = await self._store.read(
            Look(queues=self._runner.free_queues, executing=self._runner.executing, live=live)
        )
        for job_id in seen.cancels:
            self._runner.cancel(job_id)
        for job_id in seen.signalled:
            for queue in self._queues:
                queue.room.give_hint(job_id)
        done = 0
        for node in seen.nodes | {self._node}:
            if self._store.is_gone(node):
                rescued = await self._store.transact(RescueJobs(node=node))
                done += rescued
                logger.warning("engine %d is gone; rescued %d of its jobs", node, rescued)
                self._runner.kick()
        if seen.has_repairs:
            repaired = await self._store.transact(Repair())
            done += repaired
            if repaired and REPAIRED in observed:
                execute(REPAIRED, {"count": repaired})
        if seen.has_stored:
            done += await self._relay()
        if seen.has_work:
            self._runner.kick()
        else:
            self._runner.due_at(seen.next_due_at)
        return done > 0

    async def _relay(self) -> int:
        """Relay a batch and return how many signals that were.

        Its commit is what the next look notices, so that a long outbox does not hold up the rest.
        """
        relayed = await self._store.transact(RelayOutbox())
        for job_id in relayed.told:
            self._runner.kick()
            for queue in self._queues:
                queue.room.give_hint(job_id)
        if relayed.count and RELAYED in observed:
            execute(RELAYED, {"count": relayed.count})
        return relayed.count
