"""``python -m benchmarks.report RESULTS.json``: the page of the documentation that has the figures, as Markdown."""

import argparse
from pathlib import Path

from benchmarks import results
from benchmarks.figures import number
from benchmarks.results import Section

_HEAD = """\
# The figures

<!-- Written by `./run figures`, from docs/_static/benchmarks.json; do not edit it. -->

What is measured, and how, is told in [How fast it is](performance.md). Each figure is the median of its rounds, and
each ratio the median of the rounds' ratios to what stands beside it. An aim is a bound on the ratio or, without one, on
the figure; it is written here whether it is met or not. The raw results are in `docs/_static/benchmarks.json`.
"""

_PLOTS = {
    "postgres": ("rates.png", "Signals a second to parked jobs and to jobs that do not wait, beside bare INSERTs"),
    "log": ("log.png", "The cost of a signal, by the number of events in the log"),
    "idle": ("idle.png", "What an idle worker asks of the database, by the number of parked jobs"),
    "peers": ("peers.png", "The library beside others"),
}


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, help="what `./run bench --json` has written")
    print(page(results.read(parser.parse_args().results)), end="")


def page(sections: dict[str, Section]) -> str:
    """Return the page as Markdown."""
    parts = [_HEAD, _side_by_side(sections)]
    for name, section in sections.items():
        parts.append(f"## {section.title}\n\n{_about(name, section)}\n")
        if name in _PLOTS:
            file, text = _PLOTS[name]
            parts.append(f"![{text}](../_static/{file})\n")
        parts.append(_table(section))
    return "\n".join(parts)


# What is shown of each engine, by section and name.
_SIDES = {
    "a lone signal, to a job that does not wait yet": (
        ("deliver", "signal(), 1 task"),
        ("postgres", "signal(), not waiting, 1 task"),
    ),
    "8 tasks signal jobs that do not wait yet": (
        ("deliver", "signal(), 8 tasks"),
        ("postgres", "signal(), not waiting, 8 tasks"),
    ),
    "32 tasks signal jobs that do not wait yet": (
        ("deliver", "signal(), 32 tasks"),
        ("postgres", "signal(), not waiting, 32 tasks"),
    ),
    "from `signal` to the payload in a live wait": (
        ("wake", "signal to payload, live"),
        ("oban", "signal to payload, live"),
    ),
    "from `signal` to the payload in a snoozed job": (
        ("wake", "signal to payload, snoozed"),
        ("oban", "signal to payload, snoozed"),
    ),
    "2,000 parked jobs, signalled and completed": (
        ("lite", "2,000 parked jobs, signalled and completed"),
        ("oban", "2,000 parked jobs, signalled and completed"),
    ),
    "replaying a stream": (
        ("peers", "signal-ledger: replayed, SQLite"),
        ("peers", "signal-ledger: replayed, PostgreSQL"),
    ),
}


def _side_by_side(sections: dict[str, Section]) -> str:
    """Put the two engines beside each other: the figures, and their ratios to their own yardsticks."""
    lines = ["| what | the embedded engine, SQLite | Oban, PostgreSQL |", "| --- | --- | --- |"]
    for what, sides in _SIDES.items():
        lite, postgres = (_cell(sections, section, name) for section, name in sides)
        lines.append(f"| {what} | {lite} | {postgres} |")
    table = "\n".join(lines)
    return f"## Side by side\n\n{table}\n"


def _cell(sections: dict[str, Section], section: str, name: str) -> str:
    """Write a figure and its ratio, or nothing where it was not measured."""
    figures = sections[section].figures if section in sections else []
    for figure in figures:
        if figure["name"] == name:
            ratio = figure["ratio"]
            beside = "" if ratio is None else f", {float(str(ratio)):.2f} of {figure['yardstick']}"
            return f"{number(float(str(figure['value'])))} {figure['unit']}{beside}"
    return ""


def _about(name: str, section: Section) -> str:
    versions = ", ".join(
        f"{package} {version}" for package, version in section.versions.items() if package != "machine"
    )
    options = " ".join(f"--{option} {value}" for option, value in section.options.items())
    return f"`./run bench {name} {options}`, on {section.versions['machine']}; {versions}."


def _table(section: Section) -> str:
    lines = ["| what | figure | | ratio | to | aim |", "| --- | ---: | --- | ---: | --- | --- |"]
    for figure in section.figures:
        ratio = figure["ratio"]
        lines.append(
            "| "
            + " | ".join(
                (
                    str(figure["name"]),
                    number(float(str(figure["value"]))),
                    str(figure["unit"]),
                    "" if ratio is None else f"{float(str(ratio)):.2f}",
                    "" if ratio is None else str(figure["yardstick"]),
                    _aim(figure),
                )
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def _aim(figure: dict[str, object]) -> str:
    found = figure["value"] if figure["ratio"] is None else figure["ratio"]
    assert isinstance(found, float | int)
    for name, words in (("at_least", "at least"), ("at_most", "at most")):
        bound = figure[name]
        if isinstance(bound, float | int):
            is_met = found >= bound if name == "at_least" else found <= bound
            return f"{words} {bound:g}: {'met' if is_met else 'not met'}"
    return ""


if __name__ == "__main__":
    main()
