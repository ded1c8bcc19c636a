"""``python -m benchmarks [section ...]``: run benchmarks and print their figures."""

import argparse
import asyncio
import importlib
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import results
from benchmarks.figures import Figure, table
from benchmarks.options import Options

SECTIONS = {
    "deliver": ("SQLite: deliver to jobs that do not wait yet", "benchmarks.deliver:deliver"),
    "wake": ("SQLite: from signal to payload, one process", "benchmarks.wake:wake"),
    "lite": ("The embedded engine", "benchmarks.lite_engine:lite_engine"),
    "codec": ("Payloads", "benchmarks.payloads:payloads"),
    "postgres": ("PostgreSQL: deliver", "benchmarks.postgres:postgres"),
    "log": ("PostgreSQL: deliver, by the length of the log", "benchmarks.log_size:log_size"),
    "oban": ("Oban on PostgreSQL", "benchmarks.oban_engine:oban_engine"),
    "idle": ("Oban on PostgreSQL: an idle worker", "benchmarks.idle:idle"),
    "flow": ("Workflows: a step in a large one beside a step in a small one", "benchmarks.flow:flow"),
    "audit": ("Questions to a long log, beside the same to a short one", "benchmarks.audit:audit"),
    "telemetry": ("What telemetry costs a delivery", "benchmarks.telemetry:telemetry"),
    "where": ("PostgreSQL: where a delivery's time goes", "benchmarks.where:where"),
    "peers": ("Beside other libraries", "benchmarks.peers:peers"),
}

# Only when asked for: what needs packages of its own, see the dependency group of that name, what is no comparison, and
# what takes minutes and gigabytes.
EXTRA = {"peers", "where", "audit"}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", choices=[*SECTIONS, []], help="all but audit, peers and where unless named"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a measurement takes (default: 1)")
    parser.add_argument("--folder", type=Path, help="where SQLite's files are made; the disk is what is measured")
    parser.add_argument("--json", type=Path, help="write the raw results here, too, beside those of other sections")
    parser.add_argument(
        "--events", type=int, action="append", help="a size of the log; may be repeated (default: 0 and 200,000)"
    )
    parser.add_argument(
        "--audit-events", type=int, default=1_000_000, help="the size of the long log of audit (default: 1,000,000)"
    )
    parser.add_argument(
        "--audit-waits", type=int, default=100_000, help="how many jobs wait beside it (default: 100,000)"
    )
    parser.add_argument(
        "--verify-events",
        type=int,
        action="append",
        help="a size of the log that is verified; may be repeated (default: 100,000 and 1,000,000)",
    )
    parser.add_argument("--steps", type=int, default=10_000, help="the size of a large workflow (default: 10,000)")
    parser.add_argument(
        "--absurd-schema", type=Path, help="sql/absurd.sql of Absurd's repository; without it, no Absurd"
    )
    chosen = parser.parse_args()
    for name, version in results.versions().items():
        print(f"{name}: {version}")
    for name in chosen.sections or [name for name in SECTIONS if name not in EXTRA]:
        title, section = SECTIONS[name]
        with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="signal-ledger-bench-") as folder:
            options = Options(
                folder=Path(folder).resolve(),
                rounds=chosen.rounds,
                seconds=chosen.seconds,
                steps=chosen.steps,
                absurd_schema=chosen.absurd_schema,
            )
            options = replace(options, audited=(options.audited[0], chosen.audit_events), waits=chosen.audit_waits)
            if chosen.verify_events is not None:
                options = replace(options, verified=tuple(chosen.verify_events))
            if chosen.events is not None:
                options = replace(options, events=(0, *sorted(set(chosen.events) - {0})))
            figures = asyncio.run(_load(section)(options))
        print(f"\n{table(title, figures)}", flush=True)
        if chosen.json is not None:
            results.add(chosen.json, name, title, options, figures)


def _load(section: str) -> Callable[[Options], Awaitable[list[Figure]]]:
    """Import a section when it runs: some need packages that others do without."""
    module, _, function = section.partition(":")
    loaded: Callable[[Options], Awaitable[list[Figure]]] = getattr(importlib.import_module(module), function)
    return loaded


if __name__ == "__main__":
    main()
