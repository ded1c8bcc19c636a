"""Files that are written whole, or not at all."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from signal_ledger.events import Delivered
from signal_ledger.history import History


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Generator[TextIO, None, None]:
    """Open a file for writing that takes its place when all is written, and leaves none behind if something fails.

    Raises:
        ValueError: There can be no such file.
        OSError: It cannot be written.
    """
    # Resolved: a link stays one.
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise ValueError(f"expected a file that can be replaced, got {path}, which is none")
    try:
        # mkstemp: for its owner's eyes alone, as what may hold payloads should be.
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise ValueError(f"expected a file in a folder that can be written, got {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            yield stream
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save_history(history: History, path: str, *, payloads: bool) -> None:
    """Save a history; without payloads they count as erased, and the job's row is left out with its args."""
    with whole_file(path) as stream:
        stream.writelines(f"{line}\n" for line in (history if payloads else _erased(history)).to_lines())


def _erased(history: History) -> History:
    events = [
        replace(recorded, event=replace(recorded.event, payload=None))
        if isinstance(recorded.event, Delivered)
        else recorded
        for recorded in history
    ]
    return replace(history, events=tuple(events), job=None)
