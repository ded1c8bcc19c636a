"""``python -m signal_ledger_adapters.demo``: play it, print what the log says, and say whether anything is off."""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from oban.schema import install as install_oban
from psycopg_pool import AsyncConnectionPool

from signal_ledger import migrate
from signal_ledger_adapters.demo.play import Outcome, findings, play
from signal_ledger_adapters.demo.stages import LiteStage, ObanStage, Stage
from signal_ledger_adapters.postgres.binaries import PostgresMissingError
from signal_ledger_adapters.postgres.guard import ClusterError
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from signal_ledger_adapters.timeline import timeline


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m signal_ledger_adapters.demo") -> int:
    """Return 0 if all went as it should, else 1.

    Args:
        arguments: Those of the command line unless given.
        program: How it was called, for what is said of wrong arguments.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="Durable approvals that survive kill -9.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--database", type=Path, help="keep the file here; it must not exist yet")
    where.add_argument("--postgres", action="store_true", help="play it with Oban on a scratch PostgreSQL")
    chosen = parser.parse_args(arguments)
    # As those of the workers look. The command line has set up a log of its own.
    logging.basicConfig(format=f"{'':10}process {os.getpid()} says: %(message)s", force=True)
    database: Path | None = chosen.database
    if database is not None and database.exists():
        parser.error(f"--database: expected a file that does not exist yet, {database} does")
    with tempfile.TemporaryDirectory(prefix="signal-ledger-") as name:
        folder = Path(name).resolve()
        if chosen.postgres:
            return _run_on_postgres(folder)
        path = folder / "demo.db" if database is None else database.resolve()
        return _run(LiteStage(f"sqlite:///{path}", folder))


def _run_on_postgres(folder: Path) -> int:
    try:
        with scratch_cluster() as cluster:
            print(f"PostgreSQL {cluster.release}, a scratch cluster", flush=True)
            url = cluster.create_database("demo")
            asyncio.run(_install(url))
            return _run(ObanStage(url, folder))
    except (PostgresMissingError, ClusterError, ValueError) as error:
        print(error, flush=True)
        return 1


async def _install(url: str) -> None:
    """What an application's own migrations do once: Oban's schema, then the ledger's."""
    async with AsyncConnectionPool(url, min_size=1, open=False) as pool:
        await install_oban(pool)
    await migrate(url)


def _run(stage: Stage) -> int:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.2f} s  {text}", flush=True)

    try:
        outcome = asyncio.run(play(stage, say))
    except (TimeoutError, RuntimeError) as error:
        print(f"\nthe demo failed: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    _print_outcome(outcome)
    off = findings(outcome)
    for finding in off:
        print(f"expected otherwise: {finding}")
    return 1 if off else 0


def _print_outcome(outcome: Outcome) -> None:
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for purchase in outcome.purchases:
        heading = f"job {purchase.job.id}: {purchase.title}, {purchase.job.state}"
        print(f"\n\x1b[1m{heading}\x1b[0m" if coloured else f"\n{heading}")
        for line in timeline(purchase.history, payloads=True, coloured=coloured):
            print(line)
    print(f"\n{outcome.report}")


if __name__ == "__main__":
    sys.exit(main())
