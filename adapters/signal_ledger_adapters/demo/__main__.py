"""``python -m signal_ledger_adapters.demo``: play it, print what the log says, and say whether anything is off."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from signal_ledger_adapters.demo.play import Outcome, findings, play
from signal_ledger_adapters.timeline import timeline


def main() -> int:
    """Return 0 if all went as it should, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m signal_ledger_adapters.demo",
        description="Durable approvals that survive kill -9, on one SQLite file.",
    )
    parser.add_argument("--database", type=Path, help="keep the file here; it must not exist yet")
    chosen: Path | None = parser.parse_args().database
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="signal-ledger-") as folder:
            return _run(Path(folder).resolve() / "demo.db")
    if chosen.exists():
        parser.error(f"--database: expected a file that does not exist yet, {chosen} does")
    return _run(chosen.resolve())


def _run(path: Path) -> int:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.2f} s  {text}", flush=True)

    try:
        outcome = asyncio.run(play(path, say))
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
