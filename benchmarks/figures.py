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
    """

    name: str
    unit: str
    rounds: tuple[float, ...]
    yardstick: "Figure | None" = None

    @property
    def value(self) -> float:
        """The median round."""
        return statistics.median(self.rounds)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios to the yardstick."""
        if self.yardstick is None:
            return None
        return statistics.median(mine / other for mine, other in zip(self.rounds, self.yardstick.rounds, strict=True))

    def as_json(self) -> dict[str, object]:
        """The raw results."""
        return {
            "name": self.name,
            "unit": self.unit,
            "rounds": self.rounds,
            "ratio": self.ratio,
            "yardstick": None if self.yardstick is None else self.yardstick.name,
        }


def table(title: str, figures: Iterable[Figure]) -> str:
    """Lay figures out in columns."""
    lines = [title, "-" * len(title)]
    for figure in figures:
        line = f"{figure.name:<52} {_number(figure.value):>12} {figure.unit:<11}"
        if figure.yardstick is not None and figure.ratio is not None:
            line += f" {figure.ratio:6.2f} x {figure.yardstick.name}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"
