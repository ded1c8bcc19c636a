"""The fast way through the encoder: JSON-like values, which erlpack may pack as they are."""

from typing import Any

_SCALARS = frozenset((str, int, float, bool, type(None)))


def scan_plain(value: object, *, size_bytes_max: int, terms_max: int) -> bool | None:  # noqa: C901 - the hot path
    """Look whether a value consists of exact dicts with str keys, lists and scalars, within the limits.

    Such a value needs no copy: erlpack runs no foreign code on it, and it comes back equal. Anything else, an
    oversized value or a circular one among them, is for the careful way, which also knows how to complain.

    Returns:
        None if the value is not plain; else whether each of its dicts has its keys in canonical order.
    """
    in_order = True
    terms, characters = 1, 0
    work: list[Any] = [value]  # told apart by exact type, which checkers do not follow
    while work:
        node = work.pop()
        kind = type(node)
        if kind is dict:
            terms += 2 * len(node)
            last = ""
            for key, item in node.items():
                if type(key) is not str:
                    return None
                if key < last:
                    in_order = False
                last = key
                characters += len(key)
                if type(item) is str:
                    characters += len(item)
                elif type(item) not in _SCALARS:
                    work.append(item)
        elif kind is list:
            terms += len(node)
            for item in node:
                if type(item) is str:
                    characters += len(item)
                elif type(item) not in _SCALARS:
                    work.append(item)
        elif kind is str:
            characters += len(node)
        elif kind not in _SCALARS:
            return None
        if terms > terms_max or characters > size_bytes_max:
            return None
    return in_order


def order_plain(value: object) -> object:
    """Copy a plain value with the keys of each dict in canonical order: str keys by code point."""
    match value:
        case dict():
            return {key: order_plain(value[key]) for key in sorted(value)}
        case list():
            return [order_plain(item) for item in value]
        case _:
            return value
