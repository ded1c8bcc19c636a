"""``python -m benchmarks.plots RESULTS.json FOLDER``: draw the results. Needs the dependency group ``plots``."""

import argparse
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import results
from benchmarks.results import Section

# Told apart by everybody, also in grey: Okabe and Ito's palette.
OURS, OURS_TOO, THEIRS = "#0072B2", "#009E73", "#666666"
OTHERS = {"dbos": "#E69F00", "absurd": "#CC79A7", "eventsourcing": "#D55E00"}

_SIZE = (7.2, 4.0)
_STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def main() -> None:
    """Draw what there are results for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("results", type=Path, help="what `./run bench --json` has written")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    chosen = parser.parse_args()
    mpl.use("agg")
    plt.rcParams.update(_STYLE)
    sections = results.read(chosen.results)
    for name, (file, draw) in {
        "postgres": ("rates.png", rates),
        "log": ("log.png", log),
        "idle": ("idle.png", idle),
        "peers": ("peers.png", peers),
    }.items():
        if name in sections:
            drawn = draw(sections[name])
            # Without the date and the version of matplotlib, so that the same results give the same file.
            drawn.savefig(chosen.folder / file, dpi=150, metadata={"Software": None})
            plt.close(drawn)


def rates(section: Section) -> Figure:
    """Draw signals a second by the number of tasks, beside bare INSERTs."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    lines = (
        ("bare", "bare INSERT and COMMIT", THEIRS),
        ("fresh", "signal(), not waiting", OURS_TOO),
        ("parked", "signal(), parked", OURS),
    )
    ticks: list[str] = []
    width = 0.8 / len(lines)
    for place, (series, label, colour) in enumerate(lines):
        points = section.series(series)
        ticks = [f"{tasks:g}" for tasks, _ in points]
        bars = axes.bar([at + place * width for at in range(len(points))], [value for _, value in points], width)
        for bar in bars:
            bar.set_color(colour)
        bars.set_label(label)
        axes.bar_label(bars, fmt=lambda value: f"{value / 1000:.1f}k", fontsize=8, padding=2)
    axes.set_xticks([at + width for at in range(len(ticks))], ticks)
    axes.set_xlabel("tasks (the bare INSERTs have at most 32 connections)")
    axes.set_ylabel("a second")
    axes.set_title("Signals a second on PostgreSQL, durable")
    _plain(axes)
    axes.legend()
    return figure


def log(section: Section) -> Figure:
    """Draw the cost of a signal by the length of the log."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for series, label, colour in (("1 tasks", "1 task", OURS_TOO), ("32 tasks", "32 tasks", OURS)):
        points = section.series(series)
        bars = range(len(points))
        axes.plot(bars, [value for _, value in points], marker="o", color=colour, label=label)
        for at, (_, value) in zip(bars, points, strict=True):
            axes.annotate(f"{value:,.0f}", (at, value), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xticks(list(bars), [f"{events:,.0f}" for events, _ in points])
    axes.margins(x=0.15)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    axes.set_xlabel("events in the log")
    axes.set_ylabel("µs for each signal")
    axes.set_title("The cost of a signal to a parked job, by the length of the log")
    _plain(axes)
    axes.legend(loc="center right")
    return figure


def idle(section: Section) -> Figure:
    """Draw what an idle worker needs by the number of parked jobs."""
    figure, all_axes = plt.subplots(1, 3, figsize=(_SIZE[0], 3.2), layout="constrained")
    for axes, (series, label, colour) in zip(
        all_axes,
        (
            ("statements", "statements a second", OURS),
            ("connections", "connections", OURS_TOO),
            ("memory", "memory of the process, MiB", THEIRS),
        ),
        strict=True,
    ):
        points = section.series(series)
        bars = axes.bar(range(len(points)), [value for _, value in points], 0.6, color=colour)
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
        axes.set_xticks(range(len(points)), [f"{parked:,.0f}" for parked, _ in points])
        axes.set_title(label, fontsize=10)
        axes.margins(y=0.15)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("parked jobs")
    figure.suptitle("An idle worker on Oban and PostgreSQL")
    return figure


def peers(section: Section) -> Figure:
    """Draw how many times as fast the library is as each peer at each thing, and the aim."""
    compared = [figure for figure in section.figures if figure["ratio"] is not None]
    figure, axes = plt.subplots(figsize=(_SIZE[0], 1.2 + 0.42 * len(compared)), layout="constrained")
    for place, found in enumerate(compared):
        peer = str(found["yardstick"]).partition(": ")[0]
        ratio, least = found["ratio"], found["at_least"]
        assert isinstance(ratio, float | int)
        axes.barh([place], [ratio], 0.6, color=OTHERS[peer])
        # Beside the drawing, where no aim is drawn over it.
        axes.text(1.02, place, f"{ratio:.1f} x", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        if isinstance(least, float | int):
            axes.plot([least, least], [place - 0.38, place + 0.38], color="black", linewidth=2)
    axes.set_yticks(range(len(compared)), [str(found["yardstick"]) for found in compared])
    axes.invert_yaxis()
    axes.axvline(1, color=THEIRS, linewidth=1)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("times their rate (black: the aim)")
    figure.suptitle("signal-ledger's rate divided by that of other libraries, in the same run", fontsize=11)
    return figure


def _plain(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _place: f"{value:,.0f}")
    axes.grid(visible=False, axis="x")


if __name__ == "__main__":
    main()
