"""The torture is itself proved: it must catch mutants of the real code, each by a rule that it breaks.

``python -m tests.torture.mutants [WORD …]`` plays those whose names have one of the words; all of them without any; and
with ``--some`` a few, for CI.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.planting import mutants_of, plant

MUTANTS = mutants_of(Path(__file__).with_name("mutants.toml"))
SOME = (
    "D1 lite: acknowledged before the commit, which is lost now and then",
    "W5 lite: the snooze does not look again",
    "D1 postgres: commits are not flushed",
    "W13 postgres: no fence on takes",
)
SECONDS = 8
SETTLE_S = 12
SEED = 1
TRIES = 2


def caught_by(name):
    """Return the rules that a mutant broke, and whether one of those that it should break is among them."""
    changes = MUTANTS[name]
    for attempt in range(TRIES):
        broken = _broken(changes, SEED + attempt)
        if broken & set(changes[0]["rules"]):
            break
    return broken, bool(broken & set(changes[0]["rules"]))


def broken_by_nothing(engine):
    """Return the rules that the code breaks as it is, in a run as the mutants have it: there should be none."""
    return _broken([{"engine": engine}], SEED)


def _broken(changes, seed):
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        environment = plant([change for change in changes if "file" in change], folder)
        faults = [part for fault in changes[0].get("faults", ["none"]) for part in ("--fault", fault)]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.torture", "--engine", changes[0]["engine"], "--seed", str(seed)),
                *("--minutes", str(SECONDS / 60), "--settle", str(SETTLE_S), "--folder", "histories"),
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


def main(words):
    names = [name for name in MUTANTS if not words or any(word in name for word in words)]
    if words == ["--some"]:
        names = SOME
    survivors = 0
    # CI has tortured the code as it is already.
    for engine in () if names == SOME else sorted({MUTANTS[name][0]["engine"] for name in names}):
        broken = broken_by_nothing(engine)
        print(
            f"{'FAILED' if broken else 'good'}    {engine} as it is: {sorted(broken) or 'breaks no rule'}", flush=True
        )
        survivors += bool(broken)
    for name in names:
        broken, is_caught = caught_by(name)
        print(
            f"{'caught' if is_caught else 'SURVIVED'}  {name}: {', '.join(sorted(broken)) or 'broke no rule'}",
            flush=True,
        )
        survivors += not is_caught
    print(f"{len(names)} mutants, {survivors} survived")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
