"""``python -m benchmarks [section ...]``: run benchmarks and print their figures."""

import argparse
import asyncio
import json
import platform
import sqlite3
import tempfile
from pathlib import Path

from benchmarks.deliver import deliver
from benchmarks.figures import table
from benchmarks.oban_engine import oban_engine
from benchmarks.payloads import payloads
from benchmarks.postgres import postgres
from benchmarks.wake import wake

SECTIONS = {
    "deliver": ("Deliver to jobs that do not wait yet", deliver),
    "wake": ("From signal to payload, one process", wake),
    "codec": ("Payloads", payloads),
    "postgres": ("PostgreSQL: deliver", postgres),
    "oban": ("Oban on PostgreSQL", oban_engine),
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="all unless named")
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a measurement takes (default: 1)")
    parser.add_argument("--folder", type=Path, help="where the databases are made; the disk is what is measured")
    parser.add_argument("--json", type=Path, help="write the raw results here, too")
    chosen = parser.parse_args()
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}")
    results = {}
    for name in chosen.sections or SECTIONS:
        title, section = SECTIONS[name]
        with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="signal-ledger-bench-") as folder:
            figures = asyncio.run(section(Path(folder).resolve(), chosen.rounds, chosen.seconds))
        print(f"\n{table(title, figures)}", flush=True)
        results[name] = [figure.as_json() for figure in figures]
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
