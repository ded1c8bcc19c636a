"""From a Python value to Erlang external terms."""

import hashlib
import threading
from typing import NamedTuple

from erlpack import ErlangTermEncoder

from signal_ledger.codec.limits import DEFAULT_LIMITS, DEPTH_MAX, Limits
from signal_ledger.codec.normalise import normalise
from signal_ledger.codec.plain import order_plain, scan_plain
from signal_ledger.errors import PayloadError

# Ours alone, with default arguments: erlpack's module-level encoder is shared with Oban, and an encoder made with
# arguments keeps pointers into freed memory. The lock is needed because `pack` resets its buffer before it tests
# whether the buffer is in use.
_encoder = ErlangTermEncoder()
_encoder_lock = threading.Lock()


class Encoded(NamedTuple):
    """A payload as it is stored.

    Args:
        data: Erlang external terms, starting with the version byte 131.
        digest: Lower-case hex SHA-256 of the canonical encoding, in which the keys of each map are sorted: text by
            code point, then all others by their encoded bytes. Equal payloads have equal digests, whatever the
            order of their keys.
    """

    data: bytes
    digest: str


def encode(value: object, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Encode a value as Erlang external terms.

    Args:
        value: Anything erlpack packs: None, bool, int of 64 bits, float, str, bytes, list, tuple, dict, Atom, nested
            and as dict keys. A subclass is encoded as its base type, an object with ``__erlpack__`` as what that
            returns.
        limits: Bounds on size and number of terms.

    Returns:
        Bytes that `decode` turns back into an equal value of the same type.

    Raises:
        PayloadError: The value holds an unsupported type, is nested more than 256 deep, or exceeds the limits.

    Example:
        >>> encode({"decision": "approved"}).hex()
        '8374000000016d000000086465636973696f6e6d00000008617070726f766564'
    """
    return _encode(value, limits)[0]


def encode_with_digest(value: object, limits: Limits = DEFAULT_LIMITS) -> Encoded:
    """Encode a value and digest its canonical encoding; see `Encoded`. Raises as `encode` does.

    Example:
        >>> one, other = encode_with_digest({"a": 1, "b": 2}), encode_with_digest({"b": 2, "a": 1})
        >>> one.data == other.data, one.digest == other.digest
        (False, True)
    """
    data, is_in_order = _encode(value, limits)
    if is_in_order:
        canonical = data
    elif is_in_order is None:
        canonical = _pack(normalise(value, limits, pack_key=_pack), limits)
    else:
        try:
            canonical = _pack(order_plain(value), limits)
        except RecursionError:
            raise PayloadError(f"the payload is nested too deeply, expected at most {DEPTH_MAX} levels") from None
    return Encoded(data, hashlib.sha256(canonical).hexdigest())


def _encode(value: object, limits: Limits) -> tuple[bytes, bool | None]:
    """Return the encoding, and what `scan_plain` says of the value."""
    is_in_order = scan_plain(value, size_bytes_max=limits.size_bytes_max, terms_max=limits.terms_max)
    if is_in_order is not None:
        try:
            return _pack(value, limits), is_in_order
        except PayloadError:
            raise
        except Exception:  # noqa: BLE001, S110 - erlpack's complaints quote the value; the careful way names the place
            pass
    return _pack(normalise(value, limits), limits), None


def _pack(normal: object, limits: Limits = DEFAULT_LIMITS) -> bytes:
    with _encoder_lock:
        data: bytes = _encoder.pack(normal)
    if len(data) > limits.size_bytes_max:
        raise PayloadError(f"the payload is {len(data)} bytes, expected at most {limits.size_bytes_max}")
    return data
