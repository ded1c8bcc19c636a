"""Where two payloads differ is told by place and type."""

import math

import pytest
from erlpack import Atom
from hypothesis import given

from signal_ledger.codec import decode, encode, encode_with_digest
from signal_ledger.testing.strategies import payloads
from signal_ledger_adapters.testing.difference import difference


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [
        ("yes", "no", "payload is another str"),
        (1, True, "payload is a bool, expected an int"),
        (1, 1.0, "payload is a float, expected an int"),
        (None, {}, "payload is a dict, expected None"),
        ("a", b"a", "payload is a bytes, expected a str"),
        ("a", Atom("a"), "payload is an Atom, expected a str"),
        ([1, 2], (1, 2), "payload is a tuple, expected a list"),
        ([1, [2, 3]], [1, [2, 4]], "payload[1][1] is another int"),
        ([1], [1, 2], "payload has 2 items, expected 1"),
        ([1, 2], [1], "payload has 1 items, expected 2"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, 'payload["a"]["b"] is another int'),
        ({"a": 1}, {}, 'payload["a"] is missing'),
        ({}, {"a": 1}, "payload has 1 more key than expected"),
        ({}, {"a": 1, "b": 2}, "payload has 2 more keys than expected"),
        ({1: "a"}, {True: "a"}, "payload[key 0] is missing"),
        ({(1,): "a"}, {(1.0,): "a"}, "payload[key 0] is missing"),
        ({"4111 1111": 1}, {"4111 1111": 2}, "payload[key 0] is another int"),
        (0.0, -0.0, "payload is another float"),
    ],
)
def test_a_difference_has_a_place_and_types(expected, found, told):
    assert difference(expected, found) == told


def test_nan_is_itself():
    assert difference([math.nan], [math.nan]) is None


@given(payloads(), payloads())
def test_d6_payloads_differ_where_their_digests_do(one, other):
    one, other = decode(encode(one)), decode(encode(other))
    assert difference(one, one) is None
    assert (difference(one, other) is None) == (encode_with_digest(one).digest == encode_with_digest(other).digest)
