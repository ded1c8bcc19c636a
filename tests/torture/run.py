"""One run: processes at work, faults, healing, and everything that was seen."""

import asyncio
import contextlib
import pickle
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.eventually import eventually
from tests.torture import plan
from tests.torture.end_rules import ENDED, everything_is_accounted_for, nothing_is_left_in_the_outbox
from tests.torture.faults import FAULTS, OPERATIONS
from tests.torture.history import History, Stored, began_of, calls_of, mark_of, saws_of
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
FAILS_AGAIN_S = 5.0
FAILS_MAX_S = 60.0
REACHES_ALL_S = 60.0
"""A run of that length reaches every interesting case, or there is something wrong with it."""
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
        happened: How often each fault happened.
        played: How often each was tried.
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
    happened: Counter = field(default_factory=Counter)
    played: Counter = field(default_factory=Counter)
    snapshots: list = field(default_factory=list)
    followed: list = field(default_factory=list)
    cursor: str | None = None
    samples: list = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def some_jobs(self, rng, count):
        """Jobs for operators. Some are left alone, for the signals that must arrive."""
        jobs = [job_id for job_id in self.targets if job_id % 3]
        return rng.sample(jobs, min(count, len(jobs)))


async def play(run):
    """Play a run and return its history."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_kill_all, run)
        await _start(run)
        idle = [await worker.ask() for worker in run.workers]
        following = asyncio.create_task(_again_and_again(run, "following", _follow))
        stack.callback(following.cancel)
        await _torture(run)
        await run.site.heal()
        await _end(run, run.clients)
        await _settle(run)
        run.leaks += await run.site.held()
        run.leaks += await _more_than(run, idle)
        await _end(run, run.workers)
        history = await _collect(run)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        run.leaks += await run.site.left()
    history = replace(history, leaks=run.leaks, errors=run.errors)
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
    await asyncio.gather(*[child.start() for child in [*run.workers, *run.clients]])


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
    kinds = {**FAULTS, **run.site.faults}
    if run.faults is not None:
        kinds = {name: kinds[name] for name in run.faults}
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
    run.played[name] += 1
    try:
        run.happened[name] += await fault(run, rng)
    except Exception as error:
        run.errors.append(f"{name}: {type(error).__name__}: {error}")


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
        run.played[name] += 1
        run.happened[name] += await OPERATIONS[name](run, rng) or 0


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


async def _end(run, children):
    for child in children:
        if not child.is_running:
            await child.start()
        child.thaw()
    for child, status in zip(children, await asyncio.gather(*[child.close() for child in children]), strict=True):
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


async def _more_than(run, idle):
    """What the surviving workers hold more than when they were idle at first."""
    found = []
    for worker in run.workers:
        for _ in range(20):
            report = await worker.ask()
            # Oban's notifier leaves a task behind whenever its connection is lost: that is no business of ours.
            more = Counter(report["tasks"]) - Counter(idle[0]["tasks"])
            more = {name: count for name, count in more.items() if not name.startswith("oban-")}
            if not more and not report["live"]:
                break
            await asyncio.sleep(0.25)
        if more or report["live"]:
            found.append(f"worker {worker.name}: tasks {more}, live waits {report['live']}")
        if report["files"] > idle[0]["files"] + run.site.files_more_max:
            found.append(f"worker {worker.name}: {report['files']} files, {idle[0]['files']} at first")
    return found


async def _collect(run):
    history = await _what_is_left(run)
    with contextlib.suppress(AssertionError):
        await eventually(lambda: len(run.followed) >= len(history.log), timeout=15)
    report = await run.site.ledger.verify()
    calls = [call for path in sorted(run.folder.glob("client-*.jsonl")) for call in calls_of(read(path))]
    seen = [list(read(path)) for path in sorted(run.folder.glob("worker-*.jsonl"))]
    missing = [name for name in run.played if name in {**FAULTS, **run.site.faults} and not run.happened[name]]
    run.errors += [f"a fault was played {run.played[name]} times and did not happen: {name}" for name in missing]
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
    for child in [*run.workers, *run.clients]:
        await child.kill()
