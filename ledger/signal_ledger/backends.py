"""Finding the adapter for a database URL, by entry points, so that the core names none."""

from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from typing import Protocol

from signal_ledger.codec import Limits
from signal_ledger.ledger import Ledger

GROUP = "signal_ledger.backends"
"""Entry points of this group are named for a URL's scheme and refer to a `Backend`."""


class Backend(Protocol):
    """Opens the ledger of a database."""

    def __call__(
        self, url: str, *, read_only: bool, limits: Limits, schema: str | None, timeout_s: float
    ) -> AbstractAsyncContextManager[Ledger]:
        """As `signal_ledger.open_ledger`."""
        ...


def backend_for(url: str) -> Backend:
    """Return the backend for a URL.

    Raises:
        TypeError: It is no str.
        ValueError: It has no scheme, or no installed backend is for it.
    """
    if not isinstance(url, str):
        raise TypeError(f"url: expected a str, got {type(url).__name__}")
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ValueError("url: expected a database URL such as sqlite:///signals.db")
    found = entry_points(group=GROUP, name=scheme.partition("+")[0])
    if not found:
        known = ", ".join(sorted(f"{point.name}://" for point in entry_points(group=GROUP))) or "none"
        raise ValueError(f"url: no backend for {scheme}://; installed: {known}")
    backend: Backend = next(iter(found)).load()
    return backend
