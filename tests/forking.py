"""``python -m tests.forking ENGINE URL``: fork while an engine and a ledger are open, and say what came of each use."""

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import aiosqlite
import asyncpg
from oban import Job

from signal_ledger import attach, lite, open_ledger, signal
from signal_ledger_adapters.oban_api import instances
from tests.fault_figures import Account, Figures, Sent
from tests.postgres.engine.conftest import an_oban

_USE_S = 10.0


_REFUSAL = "expected the process that opened it, found a fork; open"
_NEW = ("a new engine", "a new ledger")


@dataclass(frozen=True, slots=True)
class Played:
    """What each use in a fork came to, what the parent and the new ones sent, and what became of the log."""

    said: dict[str, str]
    figures: Figures
    report: str
    are_kept: bool

    def check(self, *, ledger, record_property):
        """Check that all was refused in the fork but what it opened itself, and that the parent is unharmed.

        Args:
            ledger: What a refusal of a ledger begins with.
            record_property: Writes the figures down.
        """
        said = dict(self.said)
        assert [said.pop(name) for name in _NEW] == ["buffered", "buffered"]
        assert "RuntimeError: signal: expected an open engine in this process, found none" in said.pop("signal")
        engine = "engine 'Oban': "
        subjects = {"engine": (engine,), "engine's ledger": (engine, ledger), "ledger": (ledger,)}
        subjects["plain Oban"] = ("engine 'plain': ",)
        for name, answer in said.items():
            expected = [f"RuntimeError: {subject}{_REFUSAL}" for subject in subjects[name.partition(":")[0]]]
            assert answer.startswith(tuple(expected)), f"{name}: {answer}"
        assert self.are_kept, "the parent's connections are not those that it had"
        assert self.report.startswith("verify: ok"), self.report
        # Two before all that, four by the parent for each use, and one by each of the new ones.
        assert self.figures.acknowledged == 2 + 4 * len(self.said) + len(_NEW)
        self.figures.record(record_property, happened=len(self.said))


def play(kind, url):
    """Play it in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.forking", kind, url],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return Played(**{**told, "figures": Figures(**told["figures"])})


def _fork(use):
    """Begin a use in a child, which ends as those of multiprocessing do; return where it says what came of it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        said = str(asyncio.run(asyncio.wait_for(use(), _USE_S)))
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    os.write(writer, said.encode())
    os._exit(0)


def _said(pid, reader):
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@contextlib.asynccontextmanager
async def _lite(url):
    async with lite(url, queues={}) as engine:
        yield engine


@contextlib.asynccontextmanager
async def _oban(url):
    plain_oban = an_oban(url, queues={}, name="plain")
    async with plain_oban as plain, plain, an_oban(url, queues={}) as oban, attach(oban) as engine:
        yield engine


@contextlib.asynccontextmanager
async def _caller(kind, url):
    """A connection that the child opens by itself."""
    if kind == "lite":
        async with aiosqlite.connect(url.removeprefix("sqlite:///")) as connection:
            yield connection
    else:
        connection = await asyncpg.connect(url)
        yield connection
        await connection.close()


async def _connections(kind, url):
    """Return the server's processes that serve the database."""
    if kind == "lite":
        return set()
    async with _caller(kind, url) as connection:
        asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return {row["pid"] for row in await connection.fetch(asked)}


_ENGINES = {"lite": _lite, "oban": _oban}


async def _store(sender, kind, url, job):
    async with _caller(kind, url) as connection:
        await sender.signal(job.id, 1, conn=connection)


async def _new(opening, job, payload):
    async with opening as sender:
        receipt = await sender.signal(job.id, payload)
        return f"{receipt.outcome} {receipt.signal_id}"


async def _first(events):
    return (await anext(events)).position


def _uses(kind, url, engine, ledger, job):
    store = ledger._store
    engines_ledger = engine.ledger
    of_engines = {
        "enqueue": lambda: engine.enqueue(Job("tests.Nobody")),
        "enqueue_many": lambda: engine.enqueue_many([Job("tests.Nobody")]),
        "get_job": lambda: engine.get_job(job.id),
        "cancel_job": lambda: engine.cancel_job(job.id),
        "retry_job": lambda: engine.retry_job(job.id),
        "delete_job": lambda: engine.delete_job(job.id),
        "signal": lambda: engine.signal(job.id, 1),
        "signal(conn=)": lambda: _store(engine, kind, url, job),
        "start": engine.start,
        "stop": engine.stop,
    }
    of_ledgers = {
        f"{whose} {name}": use
        for whose, one in (("ledger:", ledger), ("engine's ledger:", engines_ledger))
        for name, use in {
            "signal": lambda one=one: one.signal(job.id, 1),
            "signal(conn=)": lambda one=one: _store(one, kind, url, job),
            "history": lambda one=one: one.history(job.id),
            "export": lambda one=one: one.export(job.id),
            "replay": lambda one=one: anext(one.replay(job.id)),
            "state": lambda one=one: one.state(job.id),
            "waiting": one.waiting,
            "waits_of": lambda one=one: one.waits_of([job.id]),
            "steps": lambda one=one: one.steps("none"),
            "outbox": one.outbox,
            "events": lambda one=one: _first(one.events()),
            "follow": lambda one=one: _first(one.follow()),
            "follow from the end": lambda one=one: _first(one.follow(after="end")),
            "verify": one.verify,
            "rebuild": one.rebuild,
        }.items()
    }
    of_stores = {"ledger: close": store.close}
    if kind == "oban":
        of_engines["attach anew"] = lambda: attach(engine.oban).start()
        of_stores |= {
            "plain Oban: attach": lambda: attach(instances["plain"]).start(),
            "ledger: relay": store.relay,
            "ledger: tick": store.tick,
            "ledger: look": lambda: store.look([(job.id, 1)]),
        }
    return {
        "signal": lambda: signal(job.id, 1),
        **{f"engine: {name}": use for name, use in of_engines.items()},
        **of_ledgers,
        **of_stores,
        "a new engine": lambda: _new(_ENGINES[kind](url), job, "of a new engine in the fork"),
        "a new ledger": lambda: _new(open_ledger(url), job, "of a new ledger in the fork"),
    }


async def _main(kind, url):
    account = Account()
    async with _ENGINES[kind](url) as engine, open_ledger(url) as ledger:
        job = await engine.enqueue(Job("tests.Nobody"))
        send = functools.partial(account.signal, job_id=job.id)
        # What is opened when it is needed is open.
        await send(engine, payload="of the parent's engine")
        await send(ledger, payload="of the parent's ledger")
        await ledger.verify()
        connections = await _connections(kind, url)
        said, senders = {}, {"engine": engine, "ledger": ledger}
        for name, use in _uses(kind, url, engine, ledger, job).items():
            # On PostgreSQL calls of the parent are under way when it forks: a fork of SQLite has the locks of a
            # transaction for ever, and finds its file locked. Others come while the child is there.
            under_way = [asyncio.create_task(send(one, payload=f"{name}: {whose}")) for whose, one in senders.items()]
            if kind == "lite":
                await asyncio.gather(*under_way)
            for _ in range(3):
                await asyncio.sleep(0)
            child = _fork(use)
            await asyncio.gather(*under_way, send(engine, payload=f"{name}: meanwhile"))
            said[name] = await asyncio.to_thread(_said, *child)
            if said[name].startswith("buffered "):
                said[name], _, signal_id = said[name].partition(" ")
                account.acknowledged.append(Sent(job.id, f"of {name} in the fork", signal_id))
            await send(ledger, payload=f"{name}: after it")
        figures = asdict(await account.figures(ledger))
        report = str(await ledger.verify())
        are_kept = connections <= await _connections(kind, url)
    print(json.dumps({"said": said, "figures": figures, "report": report, "are_kept": are_kept}))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
