"""The torture is itself proved: it must catch mutants of the real code, each by a rule that it breaks.

``python -m tests.torture.mutants [WORD …]`` plays those whose names have one of the words; all of them without any; and
with ``--some``, for CI, as many as fit into a minute: others every day. ``--seed N`` plays what another day has played.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

from tests.mutants.planting import mutants_of, plant

MUTANTS = mutants_of(Path(__file__).with_name("mutants.toml"))
SECONDS = 8
SETTLE_S = 12
SETTLES_BRIEFLY_S = 3
SHOWS_IN_THE_END = {"everything is accounted for", "nothing is left in the outbox", "nothing leaks"}
TRIES = 3
SOME_S = 60.0
"""With ``--some``, no mutant is begun after that."""
SOME_MIN = 2
STRIDE = 7
"""How many mutants of an engine one day is ahead of the day before."""


def caught_by(name, seed):
    """Return the rules that a mutant broke, and whether one of those that it should break is among them."""
    changes = MUTANTS[name]
    for attempt in range(TRIES):
        broken = _broken(changes, seed + attempt)
        if broken & set(changes[0]["rules"]):
            break
    return broken, bool(broken & set(changes[0]["rules"]))


def broken_by_nothing(engine, seed):
    """Return the rules that the code breaks as it is, in a run as the mutants have it: there should be none."""
    return _broken([{"engine": engine, "rules": sorted(SHOWS_IN_THE_END)}], seed)


def in_turns(seed):
    """Order all mutants so that an engine's turn follows the other's, beginning elsewhere with each seed."""
    ordered = []
    for names in zip_longest(*(_rotated(of_engine, seed) for of_engine in _by_engine())):
        ordered += [name for name in names if name is not None]
    return ordered


def _by_engine():
    by_engine = {}
    for name, changes in MUTANTS.items():
        by_engine.setdefault(changes[0]["engine"], []).append(name)
    return by_engine.values()


def _rotated(names, seed):
    begins = seed * STRIDE % len(names)
    return names[begins:] + names[:begins]


def _broken(changes, seed):
    # What the log shows by itself is there when the time is up.
    settle_s = SETTLE_S if SHOWS_IN_THE_END & set(changes[0]["rules"]) else SETTLES_BRIEFLY_S
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        environment = plant([change for change in changes if "file" in change], folder)
        faults = [part for fault in changes[0].get("faults", ["none"]) for part in ("--fault", fault)]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.torture", "--engine", changes[0]["engine"], "--seed", str(seed)),
                *("--minutes", str(SECONDS / 60), "--settle", str(settle_s), "--folder", "histories"),
                *("--json", "figures.json"),
                *faults,
            ],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        try:
            [figures] = json.loads((folder / "figures.json").read_text())
        except FileNotFoundError:
            print(done.stderr[-3000:], file=sys.stderr)
            return {"the torture did not come to an end"}
        assert done.returncode == int(any(figures["verdict"].values()))
        return {rule for rule, count in figures["verdict"].items() if count}


def arguments(words):
    parser = argparse.ArgumentParser(prog="python -m tests.torture.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="of the names of those to play")
    parser.add_argument("--some", action="store_true", help="a few, for CI")
    parser.add_argument("--seed", type=int, help="of the runs, and of which are some; the day, if it is not said")
    return parser.parse_args(words)


def main(words):
    options = arguments(words)
    seed = datetime.now(UTC).date().toordinal() if options.seed is None else options.seed
    names = [name for name in MUTANTS if not options.words or any(word in name for word in options.words)]
    print(f"mutants with seed {seed}", flush=True)
    survivors = 0
    # CI has tortured the code as it is already.
    for engine in () if options.some else sorted({MUTANTS[name][0]["engine"] for name in names}):
        broken = broken_by_nothing(engine, seed)
        print(
            f"{'FAILED' if broken else 'good'}    {engine} as it is: {sorted(broken) or 'breaks no rule'}", flush=True
        )
        survivors += bool(broken)
    played = 0
    ends = time.monotonic() + SOME_S
    for name in in_turns(seed) if options.some else names:
        if options.some and played >= SOME_MIN and time.monotonic() > ends:
            break
        broken, is_caught = caught_by(name, seed)
        print(
            f"{'caught' if is_caught else 'SURVIVED'}  {name}: {', '.join(sorted(broken)) or 'broke no rule'}",
            flush=True,
        )
        played += 1
        survivors += not is_caught
    print(f"{played} of {len(names)} mutants, {survivors} survived")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
