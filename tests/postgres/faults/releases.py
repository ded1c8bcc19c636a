"""What processes of a release do: ``python -m tests.postgres.faults.releases ROLE URL ...``; a line says it is done."""

import asyncio
import contextlib
import json
import pickle
import sys
from dataclasses import asdict
from pathlib import Path

from signal_ledger import attach, migrate, open_ledger
from signal_ledger.stored import SCHEMA_VERSION
from tests.postgres.engine.conftest import Node, an_oban
from tests.postgres.faults.load import Load
from tests.postgres.faults.workers import have_consumed_all


async def migrating(url):
    """Bring the schema to this release."""
    print(await migrate(url, testing=True), flush=True)


async def working(url, name):
    """Run the queue until standard input closes."""
    async with an_oban(url, {"default": 20}, name=name, node=name) as oban, attach(oban):
        print(f"schema version {SCHEMA_VERSION}", flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def accounting(url, told):
    """Compare with the log what senders were told, and have the jobs return it; tell the figures."""
    told = pickle.loads(Path(told).read_bytes())
    load = Load(None, told["job_ids"], timeout=30)
    load.acknowledged, load.unknown, load.worst_s = told["acknowledged"], told["unknown"], told["worst_s"]
    # Load prints them, too.
    with contextlib.redirect_stdout(sys.stderr):
        print(json.dumps(await _figures(url, load, told["job_ids"])), flush=True, file=sys.__stdout__)


async def _figures(url, load, job_ids):
    async with an_oban(url, {}) as oban, attach(oban) as engine, open_ledger(url) as ledger:
        node = Node(url, oban, engine)
        figures = await load.figures(ledger)
        await have_consumed_all(node, [await oban.get_job(job_id) for job_id in job_ids])
        report = await ledger.verify()
        assert report.ok, str(report)
    return asdict(figures)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run(globals()[role](*arguments))
