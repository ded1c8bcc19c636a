"""Reads the documentation: its pages and the fenced blocks in them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_NOTE = re.compile(r"<!-- (file|terminal|not run): (.+) -->")
_POSTGRES = "<!-- postgres -->"


@dataclass
class Block:
    """A fenced block.

    Args:
        language: What stands behind the opening fence.
        line: The number of that line.
        notes: What the comment right before it says, if it is one of ours.
        lines: What is in it.
    """

    language: str
    line: int
    notes: dict[str, str]
    lines: list[str] = field(default_factory=list)

    @property
    def text(self):
        return "".join(f"{line}\n" for line in self.lines)


def name(page):
    return page.relative_to(ROOT).as_posix()


def needs_postgres(page):
    """Say whether a page asks for a database on PostgreSQL."""
    return _POSTGRES in page.read_text(encoding="utf-8").splitlines()


def blocks(page):
    """Return the fenced blocks of a page, in order."""
    found, block, notes = [], None, {}
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if block is not None:
            if line == "```":
                block = None
            else:
                block.lines.append(line)
        elif line.startswith("```"):
            block = Block(language=line[3:], line=number, notes=notes)
            found.append(block)
            notes = {}
        elif note := _NOTE.fullmatch(line):
            notes[note[1]] = note[2]
        else:
            assert not notes, f"{name(page)}:{number}: expected a fenced block right after the comment"
    return found
