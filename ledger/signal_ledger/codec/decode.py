"""From Erlang external terms to a Python value, strictly.

`erlpack.unpack` must never see stored bytes: seventeen of them crash the process, and it accepts damage. This decoder
keeps its own stack, so depth costs no frames; it reads each byte once, checks each length before it believes it, and
ends in `PayloadError` for whatever is not a whole, plain, unambiguous term.

The format is described in the Erlang/OTP documentation, "External Term Format".
"""

import struct
from collections import Counter
from collections.abc import Callable

from erlpack import Atom

from signal_ledger.codec.limits import DEFAULT_LIMITS, DEPTH_MAX, Limits
from signal_ledger.codec.tags import ATOM_TAG, TAGS, is_tag_shape
from signal_ledger.errors import PayloadError

_NEW_FLOAT = ord("F")
_SMALL_INTEGER = ord("a")
_INTEGER = ord("b")
_ATOM = ord("d")
_SMALL_ATOM = ord("s")
_ATOM_UTF8 = ord("v")
_SMALL_ATOM_UTF8 = ord("w")
_SMALL_TUPLE = ord("h")
_LARGE_TUPLE = ord("i")
_NIL = ord("j")
_STRING = ord("k")
_LIST = ord("l")
_BINARY = ord("m")
_SMALL_BIG = ord("n")
_LARGE_BIG = ord("o")
_MAP = ord("t")

_ATOMS = {_ATOM: "latin-1", _SMALL_ATOM: "latin-1", _ATOM_UTF8: "utf-8", _SMALL_ATOM_UTF8: "utf-8"}
_SMALL_ATOMS = frozenset((_SMALL_ATOM, _SMALL_ATOM_UTF8))
_CONTAINERS = frozenset((_SMALL_TUPLE, _LARGE_TUPLE, _LIST, _MAP))
# How many keys of a map may have one hash. Of integers of 64 bits, sixteen do at most.
_SAME_HASH_MAX = 100

_SPELLED = {"nil": None, "true": True, "false": False}

_unpack_float: Callable[[bytes, int], tuple[float]] = struct.Struct(">d").unpack_from
_unpack_integer: Callable[[bytes, int], tuple[int]] = struct.Struct(">i").unpack_from
_unpack_size: Callable[[bytes, int], tuple[int]] = struct.Struct(">I").unpack_from

# What a frame of the stack is being collected for. A tagged tuple is one whose first element is the atom `binary` or
# `atom` and whose second is a binary: see tags.py.
_ROOT, _IN_LIST, _IN_TUPLE, _IN_TAGGED_TUPLE, _IN_MAP = range(5)


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> object:
    """Decode Erlang external terms.

    Args:
        data: What `encode` returned, or a term from the BEAM (``term_to_binary(Term)``, not compressed).
        limits: Bounds on size and number of terms.

    Returns:
        The value: binaries as str if they are UTF-8, else as bytes; ``{binary, Bin}`` as bytes; atoms as
        ``erlpack.Atom``, save ``nil``, ``true`` and ``false``, which are None, True and False.

    Raises:
        PayloadError: The bytes are not exactly one term that Python can hold, or exceed the limits.

    Example:
        >>> decode(bytes.fromhex("8368026d00000002686964000269646101"))
        Traceback (most recent call last):
            ...
        signal_ledger.errors.PayloadError: not a payload: 2 bytes after the end of the term (at byte 15)
        >>> decode(bytes.fromhex("8368026d0000000268696101"))
        ('hi', 1)
    """
    if len(data) > limits.size_bytes_max:
        raise PayloadError(f"the payload is {len(data)} bytes, expected at most {limits.size_bytes_max}")
    return _Decoder(data, limits).decode()


class _Decoder:
    def __init__(self, data: bytes, limits: Limits) -> None:
        self._data = bytes(data)
        self._terms_max = limits.terms_max
        self._terms = 1
        self._at = 0

    def decode(self) -> object:
        if self._data[:1] != b"\x83":
            raise self._error("expected the version byte 131 first")
        self._at = 1
        try:
            value = self._walk()
        except (IndexError, struct.error):
            raise self._error("it ends in the middle of a term") from None
        if self._at != len(self._data):
            raise self._error(f"{len(self._data) - self._at} bytes after the end of the term")
        return value

    def _error(self, reason: str) -> PayloadError:
        # What was to be read last may have ended behind the end.
        offset = min(self._at, len(self._data))
        return PayloadError(f"not a payload: {reason} (at byte {offset})", offset=offset)

    def _walk(self) -> object:
        """Read the terms in their order. A container opens a frame, which closes when its last term is in.

        The commonest tags are read right here, for speed.
        """
        data = self._data
        kind, items, left = _ROOT, list[object](), 1
        stack: list[tuple[int, list[object], int]] = []
        while True:
            tag = data[self._at]
            if tag == _BINARY:
                items.append(self._binary())
            elif tag == _SMALL_INTEGER:
                items.append(data[self._at + 1])
                self._at += 2
            elif tag == _NIL:
                items.append([])
                self._at += 1
            elif tag in _CONTAINERS:
                stack.append((kind, items, left))
                kind, left = self._open(tag)
                if len(stack) > DEPTH_MAX and left:
                    raise self._error(f"nested too deeply, expected at most {DEPTH_MAX} levels")
                items = []
                left += 1
            elif tag in _ATOMS:
                name = self._atom()
                items.append(_SPELLED[name] if name in _SPELLED else Atom(name))
            else:
                items.append(self._rare(tag))
            left -= 1
            while not left:
                if kind == _ROOT:
                    return items[0]
                value = self._close(kind, items)
                kind, items, left = stack.pop()
                items.append(value)
                left -= 1

    def _skip(self, size: int) -> int:
        """Move past ``size`` bytes and return where they began."""
        start = self._at
        if start + size > len(self._data):
            raise self._error("it ends in the middle of a term")
        self._at = start + size
        return start

    def _binary(self) -> str | bytes:
        size: int = _unpack_size(self._data, self._at + 1)[0]
        self._at += 5
        start = self._skip(size)
        raw = self._data[start : self._at]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def _atom(self) -> str:
        tag = self._data[self._at]
        if tag in _SMALL_ATOMS:
            size = self._data[self._at + 1]
            self._at += 2
        else:
            size = int.from_bytes(self._data[self._at + 1 : self._at + 3])
            self._at += 3
        start = self._skip(size)
        try:
            return self._data[start : self._at].decode(_ATOMS[tag])
        except UnicodeDecodeError:
            raise self._error("an atom is not UTF-8") from None

    def _rare(self, tag: int) -> object:
        start = self._at
        if tag == _INTEGER:
            self._at += 5
            return _unpack_integer(self._data, start + 1)[0]
        if tag == _NEW_FLOAT:
            self._at += 9
            return _unpack_float(self._data, start + 1)[0]
        if tag == _SMALL_BIG:
            self._at += 2
            return self._big(self._data[start + 1])
        if tag == _LARGE_BIG:
            self._at += 5
            return self._big(_unpack_size(self._data, start + 1)[0])
        if tag == _STRING:
            self._at += 3
            return self._string(int.from_bytes(self._data[start + 1 : start + 3]))
        raise self._error(f"tag {tag} is none that a payload can hold")

    def _big(self, size: int) -> int:
        start = self._skip(size + 1)
        sign = self._data[start]
        if sign > 1:
            raise self._error(f"an integer has the sign {sign}, expected 0 or 1")
        number = int.from_bytes(self._data[start + 1 : self._at], "little")
        return -number if sign else number

    def _string(self, size: int) -> list[int]:
        """The BEAM's short form of a list of small integers."""
        self._count(size)
        start = self._skip(size)
        return list(self._data[start : self._at])

    def _count(self, terms: int) -> None:
        # Each term takes a byte at least, so a size that the rest of the bytes cannot hold is refused before any
        # memory is taken for it.
        if terms > len(self._data) - self._at:
            raise self._error("it ends in the middle of a term")
        self._terms += terms
        if self._terms > self._terms_max:
            raise self._error(f"too many terms, expected at most {self._terms_max}")

    def _open(self, tag: int) -> tuple[int, int]:
        """Read a container's header; return the kind of its frame and how many terms belong in it."""
        if tag == _SMALL_TUPLE:
            size = self._data[self._at + 1]
            self._at += 2
        else:
            size = _unpack_size(self._data, self._at + 1)[0]
            self._at += 5
        if tag == _MAP:
            self._count(2 * size)
            return _IN_MAP, 2 * size
        self._count(size)
        if tag == _LIST:
            return _IN_LIST, size
        return (_IN_TAGGED_TUPLE if size > 1 and self._is_tagged() else _IN_TUPLE), size

    def _is_tagged(self) -> bool:
        """Say whether an atom of `TAGS` and a binary come next. Reads ahead, moves nothing."""
        start = self._at
        if self._data[start] not in _ATOMS:
            return False
        name = self._atom()
        tagged = name in TAGS and self._data[self._at] == _BINARY
        self._at = start
        return tagged

    def _close(self, kind: int, items: list[object]) -> object:
        if kind == _IN_MAP:
            return self._map(items)
        if kind == _IN_LIST:
            if self._data[self._at] != _NIL:
                raise self._error("a list does not end in nil")
            self._at += 1
            return items
        if kind == _IN_TAGGED_TUPLE:
            return _untag(items)
        return tuple(items)

    def _map(self, items: list[object]) -> dict[object, object]:
        keys = items[::2]
        try:
            if len(keys) > _SAME_HASH_MAX and max(Counter(map(hash, keys)).values()) > _SAME_HASH_MAX:
                # Such a dict takes quadratic time. Only integers beyond 64 bits, made for it, come to that.
                raise self._error("a map has too many keys that hash alike")
            pairs = dict(zip(keys, items[1::2], strict=True))
        except TypeError:
            raise self._error("a map has a key that no Python dict can have") from None
        if 2 * len(pairs) != len(items):
            raise self._error("a map has two keys that are one in Python")
        return pairs


def _untag(items: list[object]) -> object:
    tag, text, *rest = items
    assert isinstance(tag, str)  # noqa: S101 - `_is_tagged` has seen the atom
    if not is_tag_shape(tag, text, rest):
        return tuple(items)
    if rest:
        return tuple(items[:-1])
    if tag == ATOM_TAG:
        return Atom(text)
    return text.encode() if isinstance(text, str) else text
