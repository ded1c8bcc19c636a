"""Random histories in which the server crashes, on a cluster that has no other users."""

import asyncio
import contextlib
from typing import ClassVar

import psycopg
import pytest
from hypothesis.stateful import rule

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.comparing import play
from signal_ledger.testing.flow_machine import FlowMachine
from signal_ledger.testing.machine import LedgerMachine
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.effort import histories
from tests.postgres.bench import DatabaseClock, PostgresBench, empty
from tests.postgres.conftest import install
from tests.postgres.crashes import crash_server, open_mortal
from tests.postgres.version import wanted_version


@pytest.fixture(scope="module")
def mortal_cluster(cluster):
    """A cluster that crashes. Where the other one is, it can be."""
    # What a commit does not wait for is not written down meanwhile.
    settings = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    with scratch_cluster(wanted_version(), durable=False, settings=settings) as crashing:
        asyncio.run(install(crashing.create_database("ledger"), testing=True))
        yield crashing


class Crashing:
    """Goes before a machine among the bases of a class. Crashes are more frequent than in others."""

    to_reach: ClassVar[tuple[str, ...]] = ("crash",)
    cluster = None

    async def open_benches(self):
        clock = ManualClock()
        memory = MemoryStore(clock)
        url = self.cluster.url("ledger")
        self.connections = [psycopg.connect(url, autocommit=True)]
        empty(self.connections[0])
        store = await open_mortal(url)
        return [
            EmbeddedBench(memory, clock, memory.begin),
            PostgresBench(store, self.connections[0], DatabaseClock(self.connections[0])),
        ]

    @rule()
    def crash(self):
        self.disturb("crash")

    async def crash_benches(self):
        self.connections.append(await crash_server(self.benches[-1], self.cluster, self.cluster.url("ledger")))
        return self.benches

    async def close_benches(self):
        await super().close_benches()
        with contextlib.ExitStack() as stack:
            for connection in self.connections:
                stack.callback(connection.close)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("machine", [LedgerMachine, FlowMachine])
def test_d1_what_was_answered_survives_crashes_of_the_server(mortal_cluster, machine):
    class Machine(Crashing, machine):
        cluster = mortal_cluster

    play(
        Machine,
        rounds_max=12,
        settings=histories(2, 25),
    )
