"""Payloads as Erlang external terms: `encode`, `decode` and their limits.

Encoding is erlpack's; decoding is our own, strict. See docs/reference/codec.md for the forms on the wire.
"""

from signal_ledger.codec.decode import decode
from signal_ledger.codec.encode import Encoded, encode, encode_with_digest
from signal_ledger.codec.limits import DEFAULT_LIMITS, Limits

__all__ = ["DEFAULT_LIMITS", "Encoded", "Limits", "decode", "encode", "encode_with_digest"]
