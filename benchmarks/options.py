"""What a run of the benchmarks is asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The choices of the command line.

    Args:
        folder: Where SQLite's files are made; the disk is what is measured.
        rounds: How often each figure is measured.
        seconds: How long a measurement takes.
        events: Sizes of the log, for the cost of a signal by them.
        audited: Sizes of the short and the long log that auditors ask.
        waits: How many jobs wait beside the long one.
        verified: Sizes of the logs that are verified.
        steps: The size of a large workflow.
        absurd_schema: The file with Absurd's schema, as its project publishes it; None leaves Absurd out.
    """

    folder: Path
    rounds: int = 5
    seconds: float = 1.0
    events: tuple[int, ...] = (0, 200_000)
    audited: tuple[int, int] = (10_000, 1_000_000)
    waits: int = 100_000
    verified: tuple[int, ...] = (100_000, 1_000_000)
    steps: int = 10_000
    absurd_schema: Path | None = None
