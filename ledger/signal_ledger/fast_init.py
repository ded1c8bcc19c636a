"""A quicker ``__init__`` for the frozen values of the hot path."""

from dataclasses import MISSING, fields
from functools import update_wrapper
from typing import Any


def fast_init[T: type[Any]](cls: T) -> T:
    """Give a frozen, slotted, keyword-only dataclass an ``__init__`` that takes half the time.

    A frozen dataclass sets each field by ``object.__setattr__``, which looks the field up by its name; this one sets
    the slots directly. Nothing else changes: the class stays frozen, its signature and its defaults stay as they are.

    Args:
        cls: A dataclass made with ``frozen=True, slots=True, kw_only=True``, whose fields have plain defaults only.

    Example:
        >>> from dataclasses import dataclass
        >>> @fast_init
        ... @dataclass(frozen=True, slots=True, kw_only=True)
        ... class Point:
        ...     x: int
        ...     y: int = 0
        >>> Point(x=3)
        Point(x=3, y=0)
    """
    names: dict[str, Any] = {}
    parameters, body = [], []
    for field in fields(cls):
        names[f"_set_{field.name}"] = getattr(cls, field.name).__set__
        parameters.append(field.name)
        if field.default is not MISSING:
            names[f"_default_{field.name}"] = field.default
            parameters[-1] += f"=_default_{field.name}"
        body.append(f"    _set_{field.name}(self, {field.name})")
    source = "\n".join([f"def __init__(self, *, {', '.join(parameters)}):", *body])
    exec(source, names)  # noqa: S102 - as dataclasses itself does; the names are the class's own
    setattr(cls, "__init__", update_wrapper(names["__init__"], cls.__init__))  # noqa: B010 - mypy refuses an assignment
    return cls
