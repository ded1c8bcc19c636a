"""Where two payloads differ: the place and the types, never the values."""

from collections.abc import Mapping

from signal_ledger.codec.normalise import key_step


def difference(expected: object, found: object, path: str = "payload") -> str | None:
    """Return where two values first differ, and how; None if they are equal and of the same types.

    Example:
        >>> difference({"decision": "approved"}, {"decision": "declined"})
        'payload["decision"] is another str'
        >>> difference([1, 2], [1, 2.0])
        'payload[1] is a float, expected an int'
    """
    if type(expected) is not type(found):
        return f"{path} is {_a(found)}, expected {_a(expected)}"
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return _of_mappings(expected, found, path)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return _of_sequences(expected, found, path)
    return None if _is_same(expected, found) else f"{path} is another {type(found).__name__}"


def _of_mappings(expected: Mapping[object, object], found: Mapping[object, object], path: str) -> str | None:
    # By type as well: 1, 1.0 and True are the same key to Python, and different ones in the log.
    left = {_typed(key): value for key, value in found.items()}
    for place, (key, value) in enumerate(expected.items()):
        typed = _typed(key)
        if typed not in left:
            return f"{path}{key_step(key, place)} is missing"
        told = difference(value, left.pop(typed), f"{path}{key_step(key, place)}")
        if told is not None:
            return told
    if left:
        return f"{path} has {len(left)} more {'key' if len(left) == 1 else 'keys'} than expected"
    return None


def _of_sequences(
    expected: list[object] | tuple[object, ...], found: list[object] | tuple[object, ...], path: str
) -> str | None:
    for place, (one, other) in enumerate(zip(expected, found, strict=False)):
        told = difference(one, other, f"{path}[{place}]")
        if told is not None:
            return told
    if len(expected) != len(found):
        return f"{path} has {len(found)} items, expected {len(expected)}"
    return None


def _is_same(expected: object, found: object) -> bool:
    # NaN is itself here, and 0.0 is not -0.0.
    return str(expected) == str(found) if isinstance(expected, float) else expected == found


def _typed(key: object) -> object:
    return (tuple, tuple(map(_typed, key))) if isinstance(key, tuple) else (type(key), key)


def _a(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
