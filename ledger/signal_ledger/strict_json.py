"""JSON that two readers cannot read in two ways: each name of an object is there once, and numbers are numbers."""

import json
import math
from typing import Any, NoReturn


def loads(text: str) -> Any:  # noqa: ANN401 - as json.loads
    """Read a document.

    Raises:
        json.JSONDecodeError: It is no JSON.
        ValueError: A name is there twice, or a number is none that JSON has.
        RecursionError: It is too deep.

    >>> loads('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: a name is there twice
    """
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("JSON has no inf and no nan")
