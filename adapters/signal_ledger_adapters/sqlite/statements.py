"""The SQL files of this package, one statement each."""

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """Return the statement of ``queries/<name>.sql``, without its header."""
    text = files(__package__).joinpath("queries", f"{name}.sql").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()
