"""Bounds on what a payload may be (promise D9)."""

from dataclasses import dataclass

# erlpack 1.0.1 packs a term at most this many containers deep (`DEFAULT_RECURSE_LIMIT` in `_packer.pyx`).
DEPTH_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a payload may be.

    Args:
        size_bytes_max: Size of the encoded payload, in bytes. The default is 16 MiB.
        terms_max: Number of terms: every scalar, container, key and value counts as one.
    """

    size_bytes_max: int = 16 * 1024 * 1024
    terms_max: int = 1_000_000


DEFAULT_LIMITS = Limits()


def to_limits(value: object) -> Limits:
    """Check the limits that a caller gives; None stands for the default ones.

    Raises:
        TypeError: They are neither.
    """
    if value is None:
        return DEFAULT_LIMITS
    if not isinstance(value, Limits):
        raise TypeError(f"limits: expected signal_ledger.Limits or None, got {type(value).__name__}")
    return value
