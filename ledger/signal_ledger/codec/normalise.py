"""The careful way through the encoder: copy any value into exact builtins, or say where it cannot be packed."""

from collections.abc import Callable, Iterable

from erlpack import Atom

from signal_ledger.codec.limits import DEPTH_MAX, Limits
from signal_ledger.codec.tags import ATOM_TAG, BYTES_TAG, SPELLED_ATOMS, TAGS, is_tag_shape
from signal_ledger.errors import PayloadError

_INTEGER_MIN = -(2**63)
_INTEGER_MAX = 2**64 - 1

_BYTES_ATOM = Atom(BYTES_TAG)
_ATOM_ATOM = Atom(ATOM_TAG)


def normalise(value: object, limits: Limits, *, pack_key: Callable[[object], bytes] | None = None) -> object:
    """Copy a value into exact builtins, with bytes and awkward atoms tagged (see `signal_ledger.codec.tags`).

    Args:
        value: What the caller wants to send.
        limits: Bounds on size and number of terms.
        pack_key: If given, each dict's keys are put in canonical order: str keys first, by code point, then all
            others by what ``pack_key`` makes of them.

    Raises:
        PayloadError: The value cannot be packed; the message names the type and the path.
    """
    try:
        return _Normaliser(limits, pack_key).term(value, 0)
    except _Rejected as rejected:
        path = "payload" + "".join(reversed(rejected.steps))
        raise PayloadError(f"{path}: {rejected.reason}", path=path) from None
    except RecursionError:
        raise PayloadError(f"the payload is nested too deeply, expected at most {DEPTH_MAX} levels") from None


class _Rejected(Exception):  # noqa: N818 - internal; becomes a PayloadError at the edge
    """Carries a reason up through the levels of a value; each adds its step to the path."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.steps: list[str] = []


class _Normaliser:
    def __init__(self, limits: Limits, pack_key: Callable[[object], bytes] | None) -> None:
        self._limits = limits
        self._pack_key = pack_key
        self._terms = 0

    def term(self, value: object, depth: int) -> object:  # noqa: C901, PLR0911 - one case a type
        """Tests in erlpack's own order, so that an object of two minds becomes what erlpack makes of it."""
        self._terms += 1
        if self._terms > self._limits.terms_max:
            raise _Rejected(f"too many terms, expected at most {self._limits.terms_max} in a payload")
        if depth > DEPTH_MAX:
            raise _Rejected(f"nested too deeply, expected at most {DEPTH_MAX} levels")
        match value:
            case None | bool():
                return value
            case int():
                return _integer(int(value))
            case float():
                return float(value)
            case Atom():
                return self._atom(str(value), depth)
            case bytes():
                return self._tagged(_BYTES_ATOM, self._sized(bytes(value)), depth)
            case str():
                return self._text(str.__str__(value))
            case tuple():
                return self._tuple(value, depth)
            case list():
                return self._items(value, depth)
            case dict():
                return self._map(value.items(), depth)
            case _:
                return self._foreign(value, depth)

    def _foreign(self, value: object, depth: int) -> object:
        hook: Callable[[], object] | None = getattr(value, "__erlpack__", None)
        if hook is None:
            raise _Rejected(f"{type(value).__name__} is not a type that a payload can hold")
        return self.term(hook(), depth + 1)

    def _text(self, text: str) -> str:
        try:
            self._sized(text.encode())
        except UnicodeEncodeError:
            raise _Rejected("the str holds a lone surrogate, expected text that UTF-8 can encode") from None
        return text

    def _sized(self, data: bytes) -> bytes:
        # Also keeps erlpack from ever seeing 4 GiB, where its length field wraps without an error.
        if len(data) > self._limits.size_bytes_max:
            raise _Rejected(f"{len(data)} bytes long, expected at most {self._limits.size_bytes_max} in a payload")
        return data

    def _atom(self, name: str, depth: int) -> object:
        if name in SPELLED_ATOMS:
            return self._tagged(_ATOM_ATOM, name, depth)
        try:
            size = len(name.encode("latin-1"))
        except UnicodeEncodeError:
            raise _Rejected("the Atom is not Latin-1, expected one that erlpack can pack") from None
        if size > 0xFFFF:
            raise _Rejected(f"the Atom is {size} characters long, expected at most 65535")
        return Atom(name)

    def _tagged(self, tag: Atom, content: bytes | str, depth: int) -> object:
        if depth == DEPTH_MAX:
            raise _Rejected(f"nested too deeply, expected at most {DEPTH_MAX} levels, of which this takes two")
        self._terms += 2
        return (tag, content)

    def _tuple(self, items: tuple[object, ...], depth: int) -> object:
        normal = tuple(self._items(items, depth))
        if len(normal) < 2 or type(normal[0]) is not Atom or type(normal[1]) is not str:
            return normal
        if normal[0] in TAGS and is_tag_shape(normal[0], normal[1], normal[2:]):
            self._terms += 1
            return (*normal, None)
        return normal

    def _items(self, items: Iterable[object], depth: int) -> list[object]:
        normal = []
        for index, item in enumerate(items):
            try:
                normal.append(self.term(item, depth + 1))
            except _Rejected as rejected:
                rejected.steps.append(f"[{index}]")
                raise
        return normal

    def _map(self, pairs: Iterable[tuple[object, object]], depth: int) -> dict[object, object]:
        normal: dict[object, object] = {}
        for index, (key, value) in enumerate(pairs):
            try:
                normal_key = self._key(key, depth + 1)
                if normal_key in normal:
                    raise _Rejected(f"the {type(key).__name__} key becomes the same term as another key")
                normal[normal_key] = self.term(value, depth + 1)
            except _Rejected as rejected:
                rejected.steps.append(key_step(key, index))
                raise
        return normal if self._pack_key is None else _in_order(normal, self._pack_key)

    def _key(self, key: object, depth: int) -> object:
        normal = self.term(key, depth)
        try:
            hash(normal)
        except TypeError:
            raise _Rejected(f"the {type(key).__name__} key becomes a term that no dict can have as key") from None
        return normal


def _in_order(normal: dict[object, object], pack_key: Callable[[object], bytes]) -> dict[object, object]:
    def order(key: object) -> tuple[bool, bytes]:
        return (False, key.encode()) if type(key) is str else (True, pack_key(key))

    return {key: normal[key] for key in sorted(normal, key=order)}


def _integer(number: int) -> int:
    if _INTEGER_MIN <= number <= _INTEGER_MAX:
        return number
    raise _Rejected("the int is out of range, expected -2**63 to 2**64 - 1")


def key_step(key: object, index: int) -> str:
    """A step of a path. A key that might itself be data is told by its place only."""
    if type(key) is str and key.isidentifier() and len(key) <= 64:
        return f'["{key}"]'
    return f"[key {index}]"
