"""``python -m tests.fault_report RESULTS.json``: the page of the documentation that has the faults' figures.

The results are what the option ``--fault-figures`` of the tests writes.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, fields
from pathlib import Path

from tests.fault_figures import Figures
from tests.fault_list import FAULTS

ENGINES = {"lite": "the embedded engine", "oban": "Oban on PostgreSQL"}

_HEAD = """\
# The faults, in figures

<!-- Written by `./run fault-figures`, from docs/_static/faults.json; do not edit it. -->

What each fault did, by the tests that play it; [The guarantees](guarantees.md#faults) tells of the torture, in which
faults come together. A fault that did not happen, or that lost or doubled a signal, fails its test. The raw results,
test by test, are in `docs/_static/faults.json`.

happened
: How often: kills, images of a disk, failed system calls, cancelled calls. ✓ where the test demands it, but does not
  count.

acknowledged
: Signals whose sender had a receipt, or had committed the transaction with which it had stored them. A test that plays
  a fault at many points has a fresh file or job for each; all of their signals are counted.

lost
: Of these, those that were not in the log with equal bytes.

doubled
: Signals that were in the log more than once, after those of which nobody knew had been sent again under their keys.

unknown, committed
: Signals whose sender was told that nobody knows, or died before it was told anything; and those of them that were in
  the log.

worst
: The longest call, in seconds, of those that had to wait for the end of the fault, too; of processes that strace slows
  down, where it plays the fault.
"""


_COUNTS = {
    "happened",
    "ended",
    "kills",
    "kills, each at the next one",
    "awaits cancelled",
    "signals cancelled",
    "stores cancelled",
    "relays cancelled",
    "closes cancelled",
    "stops cancelled",
    "deadlocks of deliveries",
    "deadlocks of nodes",
    "steps",
}
"""What tests have called how often a fault happened; by now all call it that. Results that are kept have the others."""

_FIGURES = [field.name for field in fields(Figures)]


class Told:
    """What the tests of one name have told, all of their parameters together."""

    def __init__(self):
        self.happened = 0
        self.figures = None
        self.rest = {}

    def add(self, properties):
        if set(_FIGURES) <= properties.keys():
            of_one = Figures(**{name: properties[name] for name in _FIGURES})
            self.figures = of_one if self.figures is None else self.figures + of_one
        # A count of its own, or what goes by another name.
        counted = {"happened"} & properties.keys() or _COUNTS & properties.keys()
        self.happened += sum(properties[name] for name in counted)
        for name, value in properties.items():
            if name not in counted and not (self.figures is not None and name in _FIGURES):
                self.rest[name] = _both(self.rest.get(name), value)


def _both(one, other):
    if one is None:
        return other
    if isinstance(one, float) or isinstance(other, float):
        return max(one, other)
    return one + other if isinstance(other, int | list) else {**one, **other}


def main():
    """Print the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_report", description=__doc__)
    parser.add_argument("results", type=Path, help="what the tests have written with --fault-figures")
    print(page(json.loads(parser.parse_args().results.read_text(encoding="utf-8"))), end="")


def page(results):
    """Return the page as Markdown.

    Raises:
        ValueError: Tests have failed: there is no page of a run that has found a bug.
    """
    failed = [test["test"] for test in results["tests"] if test["outcome"] in ("failed", "error")]
    if failed:
        raise ValueError(f"expected results of a run in which all tests passed, but these did not: {', '.join(failed)}")
    told = {engine: defaultdict(Told) for engine in ENGINES}
    for test in results["tests"]:
        if test["outcome"] == "passed":
            told[_engine_of(test["test"])][_name_of(test["test"])].add(test["figures"])
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if name != "machine")
    return "\n".join(
        (
            _HEAD,
            f"Measured on {results['versions']['machine']}, beside other programs; {versions}.\n",
            _table(told),
            *_counted(told),
            *_skipped(results["tests"]),
        )
    )


def _engine_of(test):
    return "oban" if test.startswith("tests/postgres/") else "lite"


def _name_of(test):
    return test.partition("::")[2].partition("[")[0]


def _table(told):
    heads = ["fault"]
    columns = [""]
    for engine in ENGINES.values():
        heads += [engine, *[""] * len(_FIGURES)]
        columns += ["happened", *("worst, s" if name == "worst_s" else name for name in _FIGURES)]
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)]), _row(columns)]
    for fault in FAULTS:
        lines.append(_row([fault.name, *_cells(told["lite"], fault.lite), *_cells(told["oban"], fault.oban)]))
    for engine, tests in told.items():
        mapped = {name for fault in FAULTS for name in tests_of(fault, engine)}
        for name, one in tests.items():
            if one.figures is not None and name not in mapped:
                cells = [_cells(tests if each == engine else {}, (name,)) for each in ENGINES]
                lines.append(_row([f"`{name}`", *cells[0], *cells[1]]))
    return "\n".join(lines) + "\n"


def tests_of(fault, engine):
    tests = getattr(fault, engine)
    return () if isinstance(tests, str) else tests


def _row(cells):
    return f"| {' | '.join(cells)} |"


def _cells(tests, names):
    """Return the cells of an engine: the figures of some tests together, or a dash and why there is no test."""
    if isinstance(names, str):
        return [f"— {names}", *[""] * len(_FIGURES)]
    found = [tests[name] for name in names if name in tests]
    if not found:
        return ["— not in this run", *[""] * len(_FIGURES)]
    happened = sum(one.happened for one in found)
    figures = [one.figures for one in found if one.figures is not None]
    if not figures:
        return [f"{happened:,}" if happened else "✓", *[""] * len(_FIGURES)]
    summed = asdict(sum(figures, Figures()))
    return [f"{happened:,}" if happened else "✓", *(_number(summed[name]) for name in _FIGURES)]


def _number(value):
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def _counted(told):
    """Return a table of what tests have counted beside."""
    rows = [
        _row([f"`{name}`", ENGINES[engine], "; ".join(f"{what}: {_text(value)}" for what, value in one.rest.items())])
        for engine, tests in told.items()
        for name, one in sorted(tests.items())
        if one.rest
    ]
    return (
        "## What else was counted\n",
        "\n".join((_row(["test", "engine", "counts"]), _row(["---"] * 3), *rows)) + "\n",
    )


def _text(value):
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list):
        return " / ".join(map(_text, value))
    return _number(value) if isinstance(value, int | float) else str(value)


def _skipped(tests):
    reasons = defaultdict(set)
    for test in tests:
        if test["outcome"] == "skipped":
            reasons[test["reason"]].add(_name_of(test["test"]) or test["test"])
    lines = [
        f"- {reason}: {', '.join(f'`{name}`' for name in sorted(names))}" for reason, names in sorted(reasons.items())
    ]
    return ("## Not played in this run\n", "\n".join(lines) + "\n") if lines else ()


if __name__ == "__main__":
    main()
