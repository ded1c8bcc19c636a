"""What a benchmark found, and how it is shown."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a report.

    Args:
        name: What was measured.
        unit: Such as ``signals/s``; a ratio is of the same unit.
        rounds: The measured values, one a round.
        yardstick: What it is compared with, and its values in the same rounds; None for a yardstick itself.
        series: The line of a plot that it is a point of; empty if there is no such plot.
        at: Where on that line: how many tasks, events or jobs.
        at_least: What the ratio, or without a yardstick the value, should reach.
        at_most: What it should not exceed.
    """

    name: str
    unit: str
    rounds: tuple[float, ...]
    yardstick: "Figure | None" = None
    series: str = ""
    at: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        """The median round."""
        return statistics.median(self.rounds)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios to the yardstick; None if the yardstick is zero."""
        if self.yardstick is None or not all(self.yardstick.rounds):
            return None
        return statistics.median(mine / other for mine, other in zip(self.rounds, self.yardstick.rounds, strict=True))

    def as_json(self) -> dict[str, object]:
        """The raw results."""
        return {
            "name": self.name,
            "unit": self.unit,
            "rounds": self.rounds,
            "value": self.value,
            "ratio": self.ratio,
            "yardstick": None if self.yardstick is None else self.yardstick.name,
            "series": self.series,
            "at": self.at,
            "at_least": self.at_least,
            "at_most": self.at_most,
        }


def table(title: str, figures: Iterable[Figure]) -> str:
    """Lay figures out in columns."""
    lines = [title, "-" * len(title)]
    for figure in figures:
        line = f"{figure.name:<60} {number(figure.value):>12} {figure.unit:<12}"
        if figure.yardstick is not None and figure.ratio is not None:
            line += f" {figure.ratio:6.2f} x {figure.yardstick.name}"
        lines.append(f"{line.rstrip()}{_aim(figure)}")
    return "\n".join(lines)


def number(value: float) -> str:
    """Write a number with three digits at least."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def _aim(figure: Figure) -> str:
    least = "" if figure.at_least is None else f"  (aim: at least {figure.at_least:g})"
    most = "" if figure.at_most is None else f"  (aim: at most {figure.at_most:g})"
    return least + most
