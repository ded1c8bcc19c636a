"""Databases with jobs and events of every kind, made by real engines: what the program is asked about."""

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path

from erlpack import Atom
from oban import Job

from signal_ledger import Workflow, lite, open_ledger
from tests.callers import make_engine as make_caller
from tests.callers import sqlalchemy_connection
from tests.cli.program import SECRET
from tests.cli.workers import TEXTS, Approval, Charge, Purchase
from tests.eventually import eventually

PAYLOADS = {
    "none": None,
    "text": SECRET,
    "lists": [1, 2.5, True, [SECRET]],
    "bytes": SECRET.encode(),
    "tuple": (1, (SECRET, 2)),
    "atom": Atom(SECRET),
    "floats": [math.nan, math.inf, -math.inf, SECRET],
    "dollar": {"$bytes": SECRET},
    "keys": {1: SECRET, ("a", b"b"): [Atom("c")]},
    "large": {"number": 2**64 - 1, "secret": SECRET},
    "escapes": {"secret": SECRET, "text": TEXTS["escapes"]},
}

AS_JSON = {
    "none": None,
    "text": SECRET,
    "lists": [1, 2.5, True, [SECRET]],
    "bytes": {"$bytes": "c3dvcmRmaXNo"},
    "tuple": {"$tuple": [1, {"$tuple": [SECRET, 2]}]},
    "atom": {"$atom": SECRET},
    "floats": [{"$float": "nan"}, {"$float": "inf"}, {"$float": "-inf"}, SECRET],
    "dollar": {"$map": [["$bytes", SECRET]]},
    "keys": {"$map": [[1, SECRET], [{"$tuple": ["a", {"$bytes": "Yg=="}]}, [{"$atom": "c"}]]]},
    "large": {"number": 2**64 - 1, "secret": SECRET},
    "escapes": {"secret": SECRET, "text": TEXTS["escapes"]},
}
"""What `payload` of each is in JSON."""


@dataclass
class Site:
    """A database, and what there is in it.

    Args:
        url: Where it is.
        jobs: The ids of its jobs, by what is special about them.
        workflow: The id of its workflow.
    """

    url: str
    jobs: dict[str, int] = field(default_factory=dict)
    workflow: str = ""

    @property
    def is_file(self):
        return self.url.startswith("sqlite")

    @property
    def path(self):
        return Path(self.url.removeprefix("sqlite:///"))

    @contextlib.asynccontextmanager
    async def ledger(self, **options):
        async with open_ledger(self.url, **{"read_only": True, **options}) as ledger:
            yield ledger

    def ask(self, question):
        """Return the library's own answer: that of a coroutine function of the ledger."""

        async def answer():
            async with self.ledger() as ledger:
                return await question(ledger)

        return asyncio.run(answer())


async def furnish(site, engine):
    """Fill a database, by an engine that runs there."""
    ledger, approved = engine.ledger, {"decision": "approved", "secret": SECRET}

    async def enqueue(name, job):
        site.jobs[name] = (await engine.enqueue(job)).id
        return site.jobs[name]

    async def until(job_id, kind, count=1):
        async def there():
            return [event.kind for event in await ledger.history(job_id)].count(kind) >= count

        await eventually(there, what=f"job {job_id} has {count} {kind}")

    purchase = await enqueue("purchase", Purchase.new({"secret": SECRET}))
    await until(purchase, "snoozed")
    for number, source in enumerate(TEXTS.values()):
        await engine.signal(purchase, approved, channel="votes", key=f"{source} {number}", source=source)
    await until(purchase, "timed_out")
    await engine.signal(purchase, approved, source="too late")
    await engine.signal(purchase, approved, channel="end", source="ada")
    await until(purchase, "closed")

    twice = await enqueue("twice", Approval.new({"secret": SECRET}))
    await until(twice, "snoozed")
    await engine.signal(twice, {"decision": SECRET}, key="first", source="bob")
    await until(twice, "closed")
    await engine.retry_job(twice)
    await until(twice, "snoozed", 2)
    await engine.signal(twice, approved, source="bob")
    await until(twice, "closed", 2)

    day_s = 86_400
    await enqueue("deadline", Approval.new({"wait_for": day_s, "secret": SECRET}))
    for name, text in TEXTS.items():
        await until(await enqueue(name, Approval.new({"channel": text, "secret": SECRET})), "snoozed")
    await until(site.jobs["deadline"], "snoozed")

    parcel = Job(worker=f"shop.{TEXTS['escapes']}", args={"secret": SECRET}, schedule_in=9 * day_s)
    await enqueue("parcel", parcel)
    for name, payload in PAYLOADS.items():
        await engine.signal(site.jobs["parcel"], payload, source="post", key=name)
    await enqueue("silent", Job(worker=f"shop.{TEXTS['lines']}", args={"secret": SECRET}, schedule_in=9 * day_s))
    gone = await enqueue("gone", Job(worker="shop.Gone", args={"secret": SECRET}, schedule_in=9 * day_s))
    await engine.signal(gone, approved)
    await engine.delete_job(gone)
    await until(gone, "closed")

    await furnish_workflow(site, engine)
    await until(site.jobs["step"], "snoozed")
    await furnish_outbox(site, engine, approved)


async def furnish_workflow(site, engine):
    """Enqueue a workflow of which a step waits."""
    workflow = Workflow("the\x1b[2Jorder")
    workflow.add("approval", Approval.new({"secret": SECRET}))
    workflow.add(TEXTS["formula"], Charge.new({"secret": SECRET}), deps="approval")
    workflow.add(TEXTS["lines"] + TEXTS["escapes"], Charge.new({"secret": SECRET}), deps=["approval", TEXTS["formula"]])
    jobs = await engine.enqueue_many(workflow)
    site.workflow, site.jobs["step"] = workflow.id, jobs[0].id


async def furnish_outbox(site, engine, payload):
    """Store signals to jobs that there are not, and wait until they are refused."""
    driver = "aiosqlite" if site.is_file else "psycopg"
    async with sqlalchemy_connection(make_caller(site.url, driver)) as caller:
        for number, source in enumerate(TEXTS.values()):
            await engine.signal(
                10_000 + number, payload, conn=caller.conn, source=source, key=f"stored {number}", channel=source
            )
        await caller.commit()

    async def refused():
        return [stored.refusal is not None for stored in await engine.ledger.outbox()].count(True) == len(TEXTS)

    await eventually(refused)


async def make_on_sqlite(path):
    site = Site(f"sqlite:///{path}")
    async with lite(site.url, queues={"default": 5}) as engine:
        await furnish(site, engine)
    return site


async def make_on_postgres(url):
    from signal_ledger import attach
    from tests.postgres.engine.conftest import an_oban

    site = Site(url)
    async with an_oban(url) as oban, attach(oban) as engine:
        await furnish(site, engine)
    return site


async def all_of(iterator):
    return [item async for item in iterator]
