"""What a look at one thing has found, and how the looks are kept within their time."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    FINDING = "finding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found in one place.

    Args:
        name: What was looked at; see the reference.
        status: ``ok``; ``note`` for what is good to know and may be meant so; ``finding`` for what should be changed.
        found: What was found, and where it is not as it should be, what was expected. A sentence for people.
        advice: What to do; None if there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str | None = None


def ok(name: str, found: str) -> Check:
    """Say that all is well."""
    return Check(name=name, status=Status.OK, found=found)


def note(name: str, found: str, advice: str | None = None) -> Check:
    """Say what is good to know."""
    return Check(name=name, status=Status.NOTE, found=found, advice=advice)


def finding(name: str, found: str, advice: str) -> Check:
    """Say what should be changed."""
    return Check(name=name, status=Status.FINDING, found=found, advice=advice)


def not_understood(name: str, error: Exception) -> Check:
    """Say that a check has failed by itself. The error's own words may quote what it stumbled over."""
    return finding(
        name,
        f"expected something that can be understood, but found what leads to a {type(error).__name__}",
        "find out who has written to the ledger's tables past the library; `signal-ledger verify` names the "
        "events that were changed",
    )


def told_span(seconds: float) -> str:
    """Return a duration as people say it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def told_bytes(count: int) -> str:
    """Return a size as people say it."""
    size, unit = (1 << 30, "GiB") if count >= 1 << 30 else (1 << 20, "MiB")
    return f"{count / size:,.1f} {unit}"


def told_names(names: list[str], most: int = 5) -> str:
    """Return names for a sentence; the last of many are only counted."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def are(count: int, one: str = "is", many: str = "are") -> str:
    """Return the form of a verb that goes with a count."""
    return one if count == 1 else many


async def in_thread[T](work: Callable[[], T], timeout_s: float) -> T:
    """Do what may block in a thread of its own, which nobody waits for any longer than that.

    A thread that hangs in the kernel, on a network file system that has gone, say, cannot be ended: it is left behind,
    and keeps no program from its end.

    Raises:
        TimeoutError: It did not come to its end in time.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - reported to whom it concerns
            report = partial(_settle, done, partial(done.set_exception, error))
        else:
            report = partial(_settle, done, partial(done.set_result, result))
        with suppress(RuntimeError):
            # The event loop may have been closed meanwhile.
            loop.call_soon_threadsafe(report)

    threading.Thread(target=run, name="signal-ledger-doctor", daemon=True).start()
    async with asyncio.timeout(timeout_s):
        return await done


def _settle(done: "asyncio.Future[Any]", settle: Callable[[], None]) -> None:
    # Nobody may be waiting for it any more.
    if not done.done():
        settle()
