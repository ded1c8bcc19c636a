"""Hypothesis strategies for payloads and for histories that the rules could have written."""

from datetime import timedelta

from erlpack import Atom
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

_ATOM_NAMES = st.sampled_from(["nil", "true", "false", "binary", "atom", "ok"]) | st.text(
    st.characters(max_codepoint=255), max_size=5
)

SCALARS: SearchStrategy[object] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=10),
    st.binary(max_size=10),
    _ATOM_NAMES.map(Atom),
)

# Tuples that look like the tags which keep bytes and atoms apart.
_TAG_SHAPES = st.tuples(
    st.sampled_from([Atom("binary"), Atom("atom")]), SCALARS | st.sampled_from(["nil", "x"]), st.none()
).flatmap(lambda shape: st.sampled_from([shape[:2], shape, (*shape, None)]))

_KEYS = SCALARS | st.lists(SCALARS, max_size=3).map(tuple)

PAYLOADS: SearchStrategy[object] = st.recursive(
    SCALARS | _TAG_SHAPES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(_KEYS, inner, max_size=5),
    ),
    max_leaves=15,
)
"""Everything that a payload can be."""

DURATIONS = st.timedeltas(timedelta(0), timedelta(days=1))
"""How long a wait may be told to last."""
