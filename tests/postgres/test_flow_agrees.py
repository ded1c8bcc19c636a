"""One rule book, two executors, for workflows: random graphs and fates, on both, which must agree (F1 to F5)."""

import random
from collections import Counter
from dataclasses import replace

import psycopg
import pytest

from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore
from signal_ledger.names import NO_EXECUTION
from signal_ledger.plan import FAILURES, Plan
from signal_ledger.steps import steps_to_retry
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.effort import share_of
from tests.postgres.bench import DatabaseClock, PostgresBench, empty

WORKFLOW = "w"
SEEDS = range(share_of(60))
MOVES = 40


class Play:
    """The same moves on both."""

    def __init__(self, chance, benches, connection):
        self.connection = connection
        self.chance = chance
        self.benches = benches
        self.names = {}
        self.executions = {}
        self.once = set()
        # By hand: who is still suspended may be told once more when everything is rebuilt.
        self.was_retried = chance.random() < 0.5
        self.reached = Counter()

    async def same(self, act):
        answers = [await act(bench) for bench in self.benches]
        assert answers[1] == answers[0]
        return answers[0]

    async def insert(self):
        number = len(self.names)
        # Some deps are enqueued later, or never.
        others = [f"step {other}" for other in range(number + 2) if other != number]
        deps = self.chance.sample(others, min(len(others), self.chance.choice([0, 1, 1, 2, 3])) if number else 0)
        ignore = tuple(cause for cause in FAILURES if self.chance.random() < 0.4)
        plan = Plan(workflow_id=WORKFLOW, workflow_name=None, name=f"step {number}", deps=tuple(deps), ignore=ignore)
        scheduled_in = self.chance.choice([None, None, 10.0])
        max_attempts = self.chance.choice([1, 20])
        job_id = await self.same(
            lambda bench: bench.insert(plan=plan, scheduled_in=scheduled_in, max_attempts=max_attempts)
        )
        self.names[plan.name] = job_id
        if max_attempts == 1:
            self.once.add(job_id)

    async def finish(self):
        job_id = self.chance.choice([*self.names.values()])
        execution = await self.same(lambda bench: bench.fetch(job_id)) or self.executions.get(job_id, NO_EXECUTION)
        self.executions[job_id] = execution
        state = self.chance.choice(
            [JobState.COMPLETED] * 4 + [JobState.CANCELLED, JobState.DISCARDED, JobState.RETRYABLE, JobState.EXECUTING]
        )
        if state is JobState.RETRYABLE and job_id in self.once:
            # No executor asks for that. Oban's rescue would discard the job.
            state = JobState.DISCARDED
        if state is not JobState.EXECUTING:
            await self.same(lambda bench: bench.finish(job_id, execution, state))

    async def operate(self):
        job_id = self.chance.choice([*self.names.values()])
        match self.chance.choice(["cancel", "cancel", "retry" if self.was_retried else "cancel", "delete", "send"]):
            case "cancel":
                await self.same(lambda bench: bench.cancel(job_id))
            case "retry":
                await self.same(lambda bench: bench.retry(job_id))
            case "delete":
                await self.same(lambda bench: bench.delete(job_id))
            case _:
                await self.same(lambda bench: bench.signaller.send(job_id, 1))

    async def retry_steps(self):
        async def retry(bench):
            names = steps_to_retry(await bench.store.steps(WORKFLOW))
            return await bench.store.retry_steps(WORKFLOW, names)

        self.reached["taken up again"] += await self.same(retry)

    async def disturb(self):
        match self.chance.choice(["rescue", "prune", "rebuild", "time"]):
            case "rescue":
                await self.same(lambda bench: bench.rescue())
            case "prune":
                await self.same(lambda bench: bench.prune())
            case "rebuild":
                await self.same(lambda bench: bench.store.rebuild())
            case _:
                seconds = self.chance.choice([1, 11, -30])
                for bench in self.benches:
                    bench.clock.advance(seconds)

    async def compare(self):
        await self.same(_steps)
        for job_id in self.names.values():
            await self.same(lambda bench, job_id=job_id: bench.job(job_id))
            await self.same(lambda bench, job_id=job_id: _history(bench, job_id))
            await self.same(lambda bench, job_id=job_id: bench.store.state(job_id))

    async def play(self):
        for _ in range(MOVES):
            moves = [self.insert, self.finish, self.finish, self.operate, self.retry_steps, self.disturb]
            weights = [6 if len(self.names) < 8 else 0, 4, 4, 3, 1, 2]
            move = self.insert if not self.names else self.chance.choices(moves, weights)[0]
            await move()
            await self.compare()
        for job_id in self.names.values():
            self.reached.update(recorded.kind.value for recorded in await self.benches[0].store.history(job_id))
        if not self.was_retried:
            await self.lose_and_rebuild()
        for bench in self.benches:
            report = await Ledger(bench.store, None).verify()
            assert report.ok, str(report)

    async def lose_and_rebuild(self):
        """What stands beside the log is projected from it."""
        store = self.benches[1].store
        before = await _steps(self.benches[1])
        events = [len(await store.history(job_id)) for job_id in self.names.values()]
        self.connection.execute("TRUNCATE signal_ledger.steps, signal_ledger.edges, signal_ledger.waits")
        await store.rebuild()
        assert await _steps(self.benches[1]) == before
        assert [len(await store.history(job_id)) for job_id in self.names.values()] == events
        self.reached["rebuilt"] += 1


async def _steps(bench):
    """Without when they ended, of which clocks that go back, or do not move, tell nothing after a rebuild."""
    seen = await bench.store.steps(WORKFLOW)
    return [replace(one, step=replace(one.step, ended_at=None)) for one in seen]


async def _history(bench, job_id):
    return [replace(recorded, position=0, cursor="") for recorded in await bench.store.history(job_id)]


@pytest.mark.timeout(900)
async def test_f5_the_functions_append_what_the_rule_book_does(ledger_url):
    reached = Counter()
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        store = await PostgresStore.open(to_url(ledger_url), Names())
        for seed in SEEDS:
            empty(connection)
            clock = ManualClock()
            memory = MemoryStore(clock)
            benches = [
                EmbeddedBench(memory, clock, memory.begin),
                PostgresBench(store, connection, DatabaseClock(connection)),
            ]
            play = Play(random.Random(seed), benches, connection)
            try:
                await play.play()
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
            reached += play.reached
        await store.close()
    missing = {"released", "skipped", "cascaded", "taken up again", "rebuilt"} - reached.keys()
    assert not missing, f"histories that never met {missing} prove little: {reached}"
