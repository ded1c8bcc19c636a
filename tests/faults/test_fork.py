"""A fork has copies of connections that only the process that opened them may use."""

import json
import subprocess
import sys
from pathlib import Path

from tests.fault_figures import Figures

SCRIPT = """
import asyncio, json, os, sys
from dataclasses import asdict
from oban import Job
from signal_ledger import lite, open_ledger, signal
from tests.fault_figures import Account, Sent

URL = sys.argv[1]

def fork(use):
    "What becomes of a use in a child, which ends as those of multiprocessing do."
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        try:
            said = asyncio.run(use())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, str(said).encode())
        os.close(writer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said

async def a_new_engine(job):
    async with lite(URL, queues={}) as engine:
        receipt = await engine.signal(job.id, "lite in the fork")
        return f"{receipt.outcome} {receipt.signal_id}"

async def a_new_ledger(job):
    async with open_ledger(URL) as ledger:
        receipt = await ledger.signal(job.id, "open_ledger in the fork")
        return f"{receipt.outcome} {receipt.signal_id}"

async def main():
    async with lite(URL, queues={}) as engine, open_ledger(URL) as ledger:
        job = await engine.enqueue(Job("tests.Nobody"))
        await ledger.history(job.id)
        uses = {
            "signal": lambda: signal(job.id, 1),
            "engine.signal": lambda: engine.signal(job.id, 1),
            "engine.enqueue": lambda: engine.enqueue(Job("tests.Nobody")),
            "engine.get_job": lambda: engine.get_job(job.id),
            "engine.stop": engine.stop,
            "engine.start": engine.start,
            "ledger.signal": lambda: ledger.signal(job.id, 1),
            "ledger.history": lambda: ledger.history(job.id),
            "ledger.verify": ledger.verify,
            "ledger.waiting": ledger.waiting,
            "ledger.close": ledger._store.close,
            "lite": lambda: a_new_engine(job),
            "open_ledger": lambda: a_new_ledger(job),
        }
        account = Account()
        for name, use in uses.items():
            said = fork(use)
            if said.startswith("buffered "):
                account.acknowledged.append(Sent(job.id, f"{name} in the fork", said.split()[1]))
                said = "buffered"
            print(name, "->", said)
            # The parent is unharmed.
            assert (await account.signal(engine, job.id, name)).outcome == "buffered"
        print("figures", json.dumps(asdict(await account.figures(ledger))))
        print(await ledger.verify())

asyncio.run(main())
"""


def test_what_was_opened_before_a_fork_says_so_in_the_fork_and_goes_on_in_the_parent(tmp_path, record_property):
    path = tmp_path / "signals.db"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, f"sqlite:///{path}"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" -> ", 1) for line in done.stdout.splitlines() if " -> " in line)
    assert said.pop("lite") == said.pop("open_ledger") == "buffered"
    assert "RuntimeError: signal: expected an open engine in this process, found none" in said.pop("signal")
    for name, answer in said.items():
        subject = "engine 'Oban': " if name.startswith("engine") else f"{path}: "
        assert answer.startswith(f"RuntimeError: {subject}expected the process that opened it, found a fork;"), name
    assert "verify: ok (15 events, 1 stream)" in done.stdout, done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("figures ")]
    figures = Figures(**json.loads(line.removeprefix("figures ")))
    # 13 of the parent, and 2 of the forks that opened it themselves.
    assert figures.acknowledged == 15
    figures.record(record_property, happened=len(said) + 3)
