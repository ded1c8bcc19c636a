"""One run: processes at work, faults, healing, and everything that was seen."""

import asyncio
import contextlib
import pickle
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.eventually import eventually
from tests.torture import plan
from tests.torture.end_rules import ENDED, everything_is_accounted_for, nothing_is_left_in_the_outbox
from tests.torture.faults import FAULTS, OPERATIONS
from tests.torture.history import History, Play, Stored, began_of, calls_of, mark_of, saws_of
from tests.torture.holdings import held_more
from tests.torture.processes import Child
from tests.torture.reached import reached
from tests.torture.records import read
from tests.torture.worker import Tortured

WORKERS = 2
CLIENTS = 3
JOBS_OPEN = 24
JOBS_ENDED = 6
MANY = 10_000
SNAPSHOTS = 8
IDLES_S = 5.0
FAILS_AGAIN_S = 5.0
FAILS_MAX_S = 60.0
REACHES_ALL_S = 60.0
"""A run of that length reaches every interesting case and every fault, or there is something wrong with it."""
SETTLES_MAX = 6
HORIZON = timedelta(seconds=60)
"""Deadlines are shorter than this, or much longer: the short ones have passed when all has settled."""


@dataclass(slots=True, kw_only=True)
class Run:
    """A run under way.

    Attributes:
        site: The engine and its database.
        seed: Of all that is random in it.
        seconds: How long faults are played.
        folder: Where the histories are.
        faults: Which to play; None plays all.
        settle_s: How long nothing may happen before everything has settled.
        plays: The faults, and what operators did, in order.
    """

    site: object
    seed: int
    seconds: float
    folder: Path
    faults: list[str] | None = None
    settle_s: float = 30.0
    workers: list[Child] = field(default_factory=list)
    clients: list[Child] = field(default_factory=list)
    scripts: dict[int, list] = field(default_factory=dict)
    targets: list[int] = field(default_factory=list)
    plays: list[Play] = field(default_factory=list)
    snapshots: list = field(default_factory=list)
    followed: list = field(default_factory=list)
    cursor: str | None = None
    samples: list = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def children(self):
        """Workers and clients."""
        return [*self.workers, *self.clients]

    @property
    def faults_here(self):
        """The faults of this run."""
        kinds = {**FAULTS, **self.site.faults}
        return kinds if self.faults is None else {name: kinds[name] for name in self.faults}

    @property
    def must_happen(self):
        """The kinds that this run is long enough for."""
        is_whole = self.seconds >= REACHES_ALL_S and self.faults is None
        return tuple(sorted({**self.faults_here, **OPERATIONS})) if is_whole else ()

    def some_jobs(self, rng, count):
        """Jobs for operators. Some are left alone, for the signals that must arrive."""
        jobs = [job_id for job_id in self.targets if job_id % 3]
        return rng.sample(jobs, min(count, len(jobs)))


async def play(run):
    """Play a run and return its history."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_kill_all, run)
        await _start(run)
        idle = await _idle(run)
        following = asyncio.create_task(_again_and_again(run, "following", _follow))
        stack.callback(following.cancel)
        await _torture(run)
        await run.site.heal()
        await _revive(run)
        await _rest(run)
        await _settle(run)
        run.leaks += await run.site.held()
        run.leaks += await _leaks(run, idle)
        await _end(run)
        history = await _collect(run)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        run.leaks += await run.site.left()
    history = replace(history, leaks=run.leaks, errors=run.errors, plays=run.plays, kinds=run.must_happen)
    (run.folder / "history.pickle").write_bytes(pickle.dumps(history))
    return history


async def _start(run):
    (run.folder / "jobs").write_text("")
    engine = run.site.engine_name
    run.workers += [
        Child(run.folder, "worker", n, engine, run.site.url_of(n), run.folder, "NAME") for n in range(WORKERS)
    ]
    run.clients += [
        Child(run.folder, "client", n, engine, run.site.url_of(n), run.folder, "NAME", run.seed) for n in range(CLIENTS)
    ]
    await asyncio.gather(*[child.start() for child in run.children])


async def _idle(run):
    """What a process of each role tells, and how many connections it has then, before it has done anything."""
    return {child.role: await _idle_of(run, child) for child in (run.workers[0], run.clients[0])}


async def _idle_of(run, child):
    async def seen_at_once():
        before, report = await run.site.connections([child]), await child.ask()
        # A pool is filled in the background.
        return (report, before[child]) if await run.site.connections([child]) == before else None

    return await eventually(seen_at_once, timeout=30)


async def _torture(run):
    """Let it all run, with faults one after the other and operators at work, until the time is up."""
    helpers = [
        asyncio.create_task(_again_and_again(run, name, act))
        for name, act in {
            "enqueuing": _enqueue,
            "operators": _operate,
            "snapshots": _take_snapshots,
            "samples": _take_samples,
            "upkeep": _keep_up,
        }.items()
    ]
    try:
        await _play_faults(run)
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _play_faults(run):
    """Play one after the other while there is time. Each is played to its end: half of one leaves things broken."""
    rng = plan.rng_of(run.seed, "faults")
    kinds = run.faults_here
    loop = asyncio.get_running_loop()
    ends = loop.time() + run.seconds
    await asyncio.sleep(min(2.0, run.seconds / 10))
    for name in plan.faults(rng, sorted(kinds), MANY) if kinds else ():
        if loop.time() > ends:
            break
        await _play_fault(run, name, kinds[name], rng)
        await asyncio.sleep(rng.uniform(0.1, 0.8))
    await asyncio.sleep(ends - loop.time())


async def _play_fault(run, name, fault, rng):
    times = 0
    try:
        times = await fault(run, rng)
    except Exception as error:
        run.errors.append(f"{name}: {type(error).__name__}: {error}")
    run.plays.append(Play(kind=name, times=times))


async def _enqueue(run):
    """Keep some jobs open, and some of those that have ended in sight: signals find them in every state."""
    rng = plan.rng_of(run.seed, "jobs")
    while True:
        found = await run.site.jobs()
        is_open = [job_id for job_id in found if found[job_id].state not in ENDED]
        scripts = [plan.script(rng) for _ in range(JOBS_OPEN - len(is_open))]
        jobs = [Tortured.new(plan.args_of(steps, seed=rng.random())) for steps in scripts]
        job_ids = await run.site.enqueue(jobs) if jobs else []
        run.scripts |= dict(zip(job_ids, scripts, strict=True))
        run.targets = sorted({*is_open, *job_ids, *sorted(run.scripts)[-JOBS_ENDED:]})
        (run.folder / "jobs.new").write_text("\n".join(map(str, run.targets)))
        (run.folder / "jobs.new").rename(run.folder / "jobs")
        await asyncio.sleep(rng.uniform(0.2, 0.5))


async def _operate(run):
    rng = plan.rng_of(run.seed, "operators")
    while True:
        await asyncio.sleep(rng.uniform(0.1, 0.7))
        name = rng.choice(sorted(OPERATIONS))
        run.plays.append(Play(kind=name, times=await OPERATIONS[name](run, rng) or 0, may_miss=True))


async def _take_snapshots(run):
    while True:
        await asyncio.sleep(run.seconds / SNAPSHOTS)
        run.snapshots.append([mark_of(recorded) async for recorded in run.site.ledger.events()])


async def _take_samples(run):
    rng = plan.rng_of(run.seed, "samples")
    while True:
        await asyncio.sleep(rng.uniform(0.05, 0.3))
        if run.targets:
            run.samples.append(await run.site.ledger.state(rng.choice(run.targets)))


async def _keep_up(run):
    while True:
        await run.site.keep_up()
        await asyncio.sleep(0.5)


async def _follow(run):
    async for recorded in run.site.ledger.follow(after=run.cursor):
        run.followed.append(mark_of(recorded))
        run.cursor = recorded.cursor


async def _again_and_again(run, name, act):
    """The database may be down: then it is tried again, unless one failure follows the other for a whole minute."""
    loop = asyncio.get_running_loop()
    failing_since = failed_at = -FAILS_MAX_S
    while True:
        try:
            await act(run)
        except Exception as error:
            if loop.time() - failed_at > FAILS_AGAIN_S:
                failing_since = loop.time()
            failed_at = loop.time()
            if failed_at - failing_since > FAILS_MAX_S:
                run.errors.append(f"{name}: {type(error).__name__}: {error}")
                return
            await asyncio.sleep(0.1)


async def _revive(run):
    for child in run.children:
        if not child.is_running:
            await child.start()
        child.thaw()


async def _rest(run):
    """Let clients end what they do. They stay, so that it can be seen what they hold."""
    told = await asyncio.gather(*[client.ask("rest") for client in run.clients], return_exceptions=True)
    for client, answer in zip(run.clients, told, strict=True):
        if isinstance(answer, Exception):
            run.errors.append(f"client {client.name} did not come to rest: {type(answer).__name__}; see its .stderr")


async def _end(run):
    statuses = await asyncio.gather(*[child.close() for child in run.children])
    for child, status in zip(run.children, statuses, strict=True):
        if status != 0:
            run.errors.append(f"{child.role} {child.name} ended with status {status}; see its .stderr")


async def _settle(run):
    """Wait until all is accounted for, or nothing happens any more. What is not, in the end, the checker finds."""
    upkeep = asyncio.create_task(_again_and_again(run, "upkeep", _keep_up))
    loop = asyncio.get_running_loop()
    events, ends, ends_at_last = 0, 0.0, loop.time() + SETTLES_MAX * run.settle_s
    while loop.time() < ends_at_last:
        history = await _what_is_left(run)
        if not [*everything_is_accounted_for(history), *nothing_is_left_in_the_outbox(history)]:
            break
        # Jobs may go through one deadline after the other.
        if len(history.log) > events:
            events, ends = len(history.log), loop.time() + run.settle_s
        if loop.time() > ends:
            break
        await asyncio.sleep(0.2)
    upkeep.cancel()
    await asyncio.gather(upkeep, return_exceptions=True)


async def _what_is_left(run):
    """The part of the history that tells how it ended."""
    ledger = run.site.ledger
    outbox = [
        Stored(signal_id=row.signal_id, job_id=row.job_id, source=row.source, refusal=row.refusal)
        for row in await _pages(ledger.outbox)
    ]
    log = [recorded async for recorded in ledger.events()]
    states = {job_id: await ledger.state(job_id) for job_id in {recorded.job_id for recorded in log}}
    return History(
        log=log, states=states, jobs=await run.site.jobs(), outbox=outbox, ended_at=datetime.now(UTC) + HORIZON
    )


async def _pages(query):
    rows, after = [], None
    while page := await query(limit=1000, after=after):
        rows += page
        after = page[-1].cursor
    return rows


async def _leaks(run, idle):
    """What the surviving processes hold too much of, once they have had a moment to let go of it."""
    return [
        f"{child.role} {child.name}: {more}" for child in run.children for more in await _more_than(run, child, idle)
    ]


async def _more_than(run, child, idle):
    report_idle, connections_idle = idle[child.role]
    connections_max = run.site.connections_max[child.role]
    found = []

    async def holds_no_more():
        report, connections = await child.ask(), await run.site.connections([child])
        # Each connection is a file.
        files_max = report_idle["files"] + connections_max - connections_idle
        found[:] = held_more(
            report, connections[child], tasks=report_idle["tasks"], connections_max=connections_max, files_max=files_max
        )
        return not found

    with contextlib.suppress(AssertionError):
        await eventually(holds_no_more, timeout=IDLES_S)
    return found


async def _collect(run):
    history = await _what_is_left(run)
    with contextlib.suppress(AssertionError):
        await eventually(lambda: len(run.followed) >= len(history.log), timeout=15)
    report = await run.site.ledger.verify()
    calls = [call for path in sorted(run.folder.glob("client-*.jsonl")) for call in calls_of(read(path))]
    seen = [list(read(path)) for path in sorted(run.folder.glob("worker-*.jsonl"))]
    history = replace(
        history,
        calls=calls,
        saws=[saw for records in seen for saw in saws_of(records)],
        began={execution: at for records in seen for execution, at in began_of(records).items()},
        scripts=run.scripts,
        snapshots=run.snapshots,
        followed=run.followed,
        samples=run.samples,
        verified=[str(finding) for finding in report.findings],
    )
    if run.seconds >= REACHES_ALL_S and run.faults is None:
        run.errors += [f"never reached: {case}" for case, count in reached(history).items() if not count]
    return history


async def _kill_all(run):
    for child in run.children:
        await child.kill()
