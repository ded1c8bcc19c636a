"""``python -m tests.torture``: real processes, real faults, and a checker of everything that was seen."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.torture.checker import check
from tests.torture.lite_site import lite_site
from tests.torture.postgres_site import postgres_site
from tests.torture.report import figures_of, table
from tests.torture.run import Run, play

SITES = {"lite": lite_site, "postgres": postgres_site}
SHOWN_MAX = 20


def arguments():
    parser = argparse.ArgumentParser(prog="./run torture", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="how long faults are played, on all engines together"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all that is random in it")
    parser.add_argument("--engine", choices=[*SITES, "both"], default="both")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--folder", type=Path, help="where to keep the histories; else they are kept on a finding only")
    parser.add_argument("--fault", action="append", help="play this one only; may be said again; none for none")
    parser.add_argument("--settle", type=float, default=30.0, help="how many seconds without an event are the end")
    parser.add_argument("--mutants", action="store_true", help="instead, see to it that broken code is caught")
    return parser.parse_args()


async def torture(engine, folder, **settings):
    """Play one run and check it. Return figures and findings."""
    async with SITES[engine](folder) as site:
        run = Run(site=site, folder=folder, **settings)
        history = await play(run)
    findings = check(history)
    return figures_of(run, history, findings), [found for of_rule in findings.values() for found in of_rule]


def main():
    options = arguments()
    if options.mutants:
        # Not in the copies of the source that mutants are.
        from tests.torture import mutants

        mutants.main(["--seed", str(options.seed)])
    engines = list(SITES) if options.engine == "both" else [options.engine]
    told = []
    for engine in engines:
        parent = options.folder or Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"torture-{engine}-{options.seed}-", dir=parent))
        figures, findings = asyncio.run(
            torture(
                engine,
                folder,
                seed=options.seed,
                seconds=options.minutes * 60 / len(engines),
                settle_s=options.settle,
                faults=None if options.fault is None else [fault for fault in options.fault if fault != "none"],
            )
        )
        told.append({**asdict(figures), "findings": [str(finding) for finding in findings]})
        print(table(figures), flush=True)
        for finding in findings[:SHOWN_MAX]:
            print(f"FOUND with seed {options.seed} on {engine}: {finding}")
        if findings:
            print(f"{len(findings)} findings; the histories are in {folder}", flush=True)
        elif options.folder is None:
            shutil.rmtree(folder)
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1))
    sys.exit(1 if any(of_engine["findings"] for of_engine in told) else 0)


if __name__ == "__main__":
    main()
