"""Oban's extension points: one function a name, so ours calls the one that was there before."""

from collections.abc import Callable
from typing import Any

from oban._extensions import get_ext, put_ext


def chain(name: str, default: Callable[..., Any], make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
    """Put an extension before the one that is there, once.

    Args:
        name: The extension point.
        default: What Oban does there by itself.
        make: Makes the extension, given the previous one.

    Returns:
        Whether it was put there now.
    """
    # Others may chain themselves before ours later, so what is there does not tell; a name of our own does.
    ours = f"signal_ledger.{name}"
    if get_ext(ours, default) is not default:
        return False
    extension = make(get_ext(name, default))
    put_ext(name, extension)
    put_ext(ours, extension)
    return True
