"""Deadlocks, and whatever a role has as its defaults for transactions: all promises hold (D2, W5)."""

import asyncio
import contextlib
import random

import psycopg
import pytest

from signal_ledger import attach, open_ledger
from tests.eventually import eventually
from tests.postgres.engine.conftest import Node, an_oban, query
from tests.postgres.faults.conflicts_log import CONFLICT, DEADLOCK, conflicts_log
from tests.postgres.faults.load import Load
from tests.postgres.faults.test_lost_replies import MARKS
from tests.postgres.faults.workers import collectors, have_consumed_all

LEVELS = ["read uncommitted", "read committed", "repeatable read", "serializable"]

SENDER, NODE, OTHERS = "sender", "node", "others"
"""How the applications are called: who signals, Oban with the ledger under it, and who is in their way."""

# Who meets a deadlock is who looks first: mostly the library, and never two of the others for long.
PATIENCE = {"library": "1ms", OTHERS: "50ms"}


@contextlib.contextmanager
def a_role(url, level):
    """A role with such defaults, which may do everything; give the URL as that."""
    query(url, "DROP ROLE IF EXISTS levelled")
    query(url, "CREATE ROLE levelled SUPERUSER LOGIN")
    query(url, f"ALTER ROLE levelled SET default_transaction_isolation = '{level}'")
    query(url, "ALTER ROLE levelled SET default_transaction_deferrable = on")
    query(url, f"ALTER ROLE levelled SET deadlock_timeout = '{PATIENCE['library']}'")
    yield url.replace("postgres@", "levelled@")
    query(url, "DROP ROLE levelled")


def note_levels(url):
    """Have each transaction that appends to the log note at what level it does, and of whom it is."""
    query(url, "CREATE TABLE appended (application text, level text)")
    query(
        url,
        "CREATE FUNCTION note_level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.appended VALUES "
        "(current_setting('application_name'), current_setting('transaction_isolation')); RETURN NULL; END $$",
    )
    query(
        url,
        "CREATE TRIGGER note_level AFTER INSERT ON signal_ledger.events "
        "FOR EACH STATEMENT EXECUTE FUNCTION note_level()",
    )


class Interference:
    """Others, who lock jobs in any order and update them, at their level; so often that everybody meets them."""

    def __init__(self, url, level):
        self._url = f"{url}&application_name={OTHERS}&options=-cdeadlock_timeout%3D{PATIENCE[OTHERS]}"
        self._chance = random.Random(level)
        self._is_over = asyncio.Event()
        self.job_ids = []

    async def _interfere(self):
        while not self._is_over.is_set():
            # At level serializable commits fail, too; a connection that commits as it is left would then stay open.
            async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                with contextlib.suppress(psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                    async with connection.transaction():
                        for job_id in self._chance.sample(self.job_ids, 3):
                            await connection.execute(
                                "UPDATE oban_jobs SET priority = 1 - priority WHERE id = %s", [job_id]
                            )

    @contextlib.asynccontextmanager
    async def running(self, count):
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._interfere())
            try:
                yield
            finally:
                self._is_over.set()


async def run_short_jobs(node, interference, waiting):
    """Run jobs that wait for nothing, a few at a time, and let the others lock those, too; return how many."""
    jobs = [
        job_id
        for [job_id] in await node.change(
            "INSERT INTO oban_jobs (worker, state, max_attempts) "
            "SELECT 'tests.postgres.engine.workers.Quick', 'available', 1 FROM generate_series(1, 6) RETURNING id"
        )
    ]
    interference.job_ids = [*waiting, *jobs]
    await eventually(
        lambda: node.sql("SELECT count(*) FROM oban_jobs WHERE id = ANY (%s) AND state = 'completed'", jobs)[0][0] == 6
    )
    return len(jobs)


STRUCK = [("deadlocks", "deliveries"), ("deadlocks", "nodes"), ("conflicts", "all statements of nodes")]
"""What the library met."""


@pytest.mark.parametrize("level", LEVELS)
async def test_deadlocks_and_conflicts_at_every_default_level_are_tried_again(
    cluster, ledger_url, level, record_property
):
    """The ledger's own transactions are of READ COMMITTED, whatever the default; Oban's are of that level."""
    has_conflicts = level in ("repeatable read", "serializable")
    note_levels(ledger_url)
    interference = Interference(ledger_url, level)
    short = 0
    with a_role(ledger_url, level) as url:
        async with (
            conflicts_log(cluster, ledger_url) as log,
            an_oban(f"{url}&application_name={NODE}", {"default": 10}) as oban,
            attach(oban) as engine,
            open_ledger(f"{url}&application_name={SENDER}") as ledger,
        ):

            def met():
                return {
                    "deadlocks of deliveries": log.count(DEADLOCK, SENDER, statement="deliver_"),
                    "deadlocks of nodes": log.count(DEADLOCK, NODE),
                    "conflicts of acknowledgements": log.count(
                        CONFLICT, NODE, statement=MARKS["acknowledgement"].decode()
                    ),
                    "conflicts of all statements of nodes": log.count(CONFLICT, NODE),
                    "conflicts of the ledger's statements": log.count(CONFLICT, SENDER)
                    + log.count(CONFLICT, NODE, statement='"signal_ledger".'),
                    "rolled back of others": log.count(DEADLOCK, OTHERS) + log.count(CONFLICT, OTHERS),
                }

            node = Node(ledger_url, oban, engine)
            jobs = await collectors(node, 6)
            waiting = interference.job_ids = [job.id for job in jobs]
            load = Load(ledger, waiting, timeout=30)

            def is_enough():
                return (
                    met()["deadlocks of deliveries"] >= 3
                    and (met()["conflicts of acknowledgements"] >= 3) >= has_conflicts
                    and len(load.acknowledged) > 200
                )

            async with interference.running(3), load.running(8, lists=2):
                async with asyncio.timeout(60):
                    while not is_enough():
                        short += await run_short_jobs(node, interference, waiting)
            counts = met()
            for name, count in counts.items():
                record_property(name, count)
            assert (counts["conflicts of acknowledgements"] > 0) == has_conflicts
            assert counts["conflicts of the ledger's statements"] == 0
            happened = sum(counts[f"{what} of {whose}"] for what, whose in STRUCK)
            figures = await load.figures(ledger, record_property, happened=happened)
            assert figures.unknown == 0
            await have_consumed_all(node, jobs)

            async def is_whole():
                # Oban ends jobs at that level: what it cannot see is noted, and appended afterwards.
                return (await ledger.verify()).ok

            await eventually(is_whole)
            assert node.sql("SELECT DISTINCT level FROM appended WHERE application = %s", SENDER) == [
                ("read committed",)
            ]
            of_nodes = {one for [one] in node.sql("SELECT DISTINCT level FROM appended WHERE application = %s", NODE)}
            assert "read committed" in of_nodes
            assert of_nodes <= {"read committed", level}
            assert has_conflicts <= (len(of_nodes) == 1)
    record_property("short jobs", short)
