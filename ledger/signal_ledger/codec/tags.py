"""How `bytes` and three awkward atoms travel, so that every value comes back as the type it was.

Erlang has one type for both text and bytes, and erlpack writes ``None`` and ``Atom("nil")`` alike. Two tagged
tuples keep them apart, in a form that the BEAM reads even with ``binary_to_term(Bin, [safe])``:

==========================  ==================
Python                      on the wire
==========================  ==================
``"text"``                  ``<<"text">>``
``b"bytes"``                ``{binary, <<"bytes">>}``
``Atom("nil")``             ``{atom, <<"nil">>}``  (also ``true`` and ``false``)
==========================  ==================

A tuple of the user's own that has such a shape, followed by any number of ``None``, is written with one ``None``
more; the decoder takes one away. So no value is ever taken for another.
"""

from collections.abc import Iterable

BYTES_TAG = "binary"
ATOM_TAG = "atom"
TAGS = frozenset((BYTES_TAG, ATOM_TAG))

# erlpack writes and reads these three atoms as None, True and False.
SPELLED_ATOMS = frozenset(("nil", "true", "false"))


def is_tag_shape(tag: str, text: object, rest: Iterable[object]) -> bool:
    """Say whether ``(Atom(tag), text, *rest)`` is a reserved shape.

    Args:
        tag: The name of the first element, an atom.
        text: The second element; only what travels as a binary can be reserved.
        rest: The elements after it.
    """
    if tag == ATOM_TAG and text not in SPELLED_ATOMS:
        return False
    return all(item is None for item in rest)
