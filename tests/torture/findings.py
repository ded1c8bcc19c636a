"""What the checker finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that should not be.

    Attributes:
        rule: The rule that is broken; filled in by the checker.
        job_id: The job; None if it is about no single one.
        version: The event; None if it is about no single one.
        expected: What should be there.
        found: What is there instead.
    """

    rule: str = ""
    job_id: int | None = None
    version: int | None = None
    expected: str
    found: str

    def __str__(self):
        where = "" if self.job_id is None else f" job {self.job_id}"
        where += "" if self.version is None else f", version {self.version}"
        return f"{self.rule}:{where}: expected {self.expected}, found {self.found}"


def at(recorded, *, expected, found):
    """A finding about an event."""
    return Finding(job_id=recorded.job_id, version=recorded.version, expected=expected, found=found)
