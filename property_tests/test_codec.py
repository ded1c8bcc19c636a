"""Laws of the codec (promise D9, D6)."""

import math

from erlpack import Atom, pack, unpack
from hypothesis import example, given
from hypothesis import strategies as st

from signal_ledger.codec import Limits, decode, encode, encode_with_digest
from signal_ledger.errors import PayloadError
from signal_ledger.testing.strategies import payloads
from tests.same import same


@given(payloads())
def test_d9_decode_undoes_encode(value):
    data = encode(value)
    back = decode(data)
    assert same(back, value)
    assert encode(back) == data


@given(payloads())
def test_d9_what_we_write_is_what_erlpack_reads(value):
    """The bytes are plain external terms: the other reader sees the same structure, with bytes for text."""
    unpack(encode(value))


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(), st.lists))
def test_d9_plain_values_are_packed_as_erlpack_packs_them(value):
    assert encode(value) == pack(value)


@given(payloads(), st.randoms(use_true_random=False))
def test_d6_the_digest_does_not_depend_on_the_order_of_keys(value, random):
    def shuffled(one):
        if isinstance(one, dict):
            items = [(shuffled(key), shuffled(item)) for key, item in one.items()]
            random.shuffle(items)
            return dict(items)
        if isinstance(one, list | tuple):
            return type(one)(map(shuffled, one))
        return one

    assert encode_with_digest(shuffled(value)).digest == encode_with_digest(value).digest


@given(payloads(), payloads())
@example(1, 1.0)
@example(1, True)
@example("a", b"a")
@example("a", Atom("a"))
@example([1], (1,))
@example(0.0, -0.0)
def test_d6_different_values_have_different_digests(one, other):
    if not same_but_for_order(one, other):
        assert encode_with_digest(one).digest != encode_with_digest(other).digest


def same_but_for_order(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            any(same_but_for_order(a, b) and same_but_for_order(one[a], other[b]) for b in other) for a in one
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_but_for_order, one, other))
    return same(one, other)


TAGS = [bytes([tag]) for tag in b"FabdsvwhijklmnotcPMgefpqruxyz"]
FRAGMENTS = st.sampled_from([*TAGS, *TAGS, b"\0", b"\1", b"\2", b"\0\0\0\1", b"\xff", b"binary", b"nil", b"j"])


@given(
    st.binary(max_size=60).map(lambda rest: b"\x83" + rest)
    | st.lists(FRAGMENTS, max_size=40).map(lambda parts: b"\x83" + b"".join(parts))
    | st.binary(max_size=60)
)
def test_d9_any_bytes_are_a_value_or_a_payload_error(data):
    try:
        value = decode(data, Limits(terms_max=1000))
    except PayloadError as error:
        assert error.offset is not None
        return
    # What is accepted is a value that can be read again, if it can be written at all.
    try:
        again = encode(value)
    except PayloadError:
        return
    assert same(decode(again), value) or _has_nan(value)


def _has_nan(value):
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, dict):
        return any(map(_has_nan, value)) or any(map(_has_nan, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_nan, value))


@given(payloads(), st.data())
def test_d9_damage_never_goes_unnoticed_as_another_structure(value, data):
    """A payload that was cut or extended is no payload."""
    whole = encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:cut], whole + whole[cut:]):
        try:
            decode(damaged)
        except PayloadError:
            continue
        raise AssertionError(damaged)
