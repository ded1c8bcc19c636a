"""The codec (promise D9): what goes in comes out, and nothing else does."""

import enum
import math
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple

import erlpack
import pytest
from erlpack import Atom

from signal_ledger.codec import DEFAULT_LIMITS, Limits, decode, encode, encode_with_digest
from signal_ledger.codec.limits import to_limits
from signal_ledger.errors import PayloadError
from tests.same import same


class Color(enum.IntEnum):
    RED = 1


class Name(enum.StrEnum):
    ADA = "ada"


class Packed:
    def __init__(self, value):
        self.value = value

    def __erlpack__(self):
        return self.value

    def __repr__(self):
        return f"Packed({self.value!r})"


Point = namedtuple("Point", "x y")  # noqa: PYI024 - a subclass of tuple is wanted

VALUES = [
    None,
    True,
    False,
    0,
    255,
    256,
    -1,
    2**31 - 1,
    -(2**31),
    2**31,
    2**63,
    -(2**63),
    2**64 - 1,
    0.0,
    -0.0,
    1.5,
    math.inf,
    -math.inf,
    "",
    "text",
    "grün \U0001f600",
    b"",
    b"bytes",
    b"\xff\x00",
    [],
    [1, [2, [3]]],
    (),
    (1, "a"),
    tuple(range(300)),
    {},
    {"a": {"b": {"c": None}}},
    {1: "int", 1.5: "float", (1, 2): "tuple", b"b": "bytes", None: "none", Atom("x"): "atom"},
    Atom("foo"),
    Atom("nil"),
    Atom("true"),
    Atom("false"),
    Atom("é"),
    Atom("x" * 300),
    # Tuples that look like the tags which keep bytes and atoms apart.
    (Atom("binary"), "looks like bytes"),
    (Atom("binary"), "looks escaped", None),
    (Atom("binary"), "twice", None, None),
    (Atom("binary"), b"holds bytes"),
    (Atom("binary"), "not all None", 1),
    (Atom("atom"), "nil"),
    (Atom("atom"), "true", None),
    (Atom("atom"), "another"),
    (Atom("binary"),),
    {(Atom("binary"), "key"): b"value"},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_d9_a_value_comes_back_equal_and_of_the_same_type(value):
    assert same(decode(encode(value)), value)


def test_d9_nan_comes_back_as_nan():
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Color.RED, 1),
        (Name.ADA, "ada"),
        (Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (type("Sub", (list,), {})([1]), [1]),
        (type("Sub", (bytes,), {})(b"b"), b"b"),
        (type("Sub", (float,), {})(1.5), 1.5),
        (Packed({"a": (1,)}), {"a": (1,)}),
        ([Packed(Packed(b"deep"))], [b"deep"]),
        ({Packed("k"): 1}, {"k": 1}),
    ],
    ids=repr,
)
def test_d9_subclasses_and_hooks_come_back_as_what_they_stand_for(value, base):
    assert same(decode(encode(value)), base)


def test_d9_dicts_keep_the_order_of_their_keys():
    assert list(decode(encode({"b": 1, "a": 2}))) == ["b", "a"]


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": [1, {2}]}, 'payload["a"][1]', "set is not a type"),
        ([bytearray()], "payload[0]", "bytearray is not a type"),
        (object(), "payload", "object is not a type"),
        ({"secret word": object()}, "payload[key 0]", "object is not a type"),
        ({"a": 2**64}, 'payload["a"]', "int is out of range"),
        ([-(2**63) - 1], "payload[0]", "int is out of range"),
        ("\ud800", "payload", "lone surrogate"),
        ((1, Atom("\u20ac")), "payload[1]", "not Latin-1"),
        (Atom("x" * 70_000), "payload", "70000 characters long"),
        ({Packed("a"): 1, Packed("a"): 2}, "payload[key 1]", "same term as another key"),
        ({Packed(["a"]): 1}, "payload[key 0]", "no dict can have as key"),
    ],
)
def test_d9_what_cannot_be_packed_is_refused_by_type_and_path(value, path, reason):
    with pytest.raises(PayloadError, match=reason) as refused:
        encode(value)
    assert refused.value.path == path
    assert str(refused.value).startswith(path)


def test_d9_a_refusal_never_shows_the_value():
    for value in ({"password": {"hunter2"}}, ["hunter2", {"hunter2"}], {"hunter2!": object()}, "hunter2\ud800"):
        with pytest.raises(PayloadError) as refused:
            encode(value)
        assert "hunter2" not in str(refused.value)
        assert refused.value.__cause__ is None


def nested(depth, value):
    for _ in range(depth):
        value = [value]
    return value


def test_d9_values_may_be_as_deep_as_erlpack_packs_and_no_deeper():
    for leaf in (1, "a", None):
        assert same(decode(encode(nested(256, leaf))), nested(256, leaf))
        with pytest.raises(erlpack._packer.EncodingError):
            erlpack.pack(nested(257, leaf))
        with pytest.raises(PayloadError, match="nested too deeply"):
            encode(nested(257, leaf))
    # Tagged values take one level for the tag.
    assert same(decode(encode(nested(255, b"b"))), nested(255, b"b"))
    for leaf in (b"b", Atom("nil")):
        with pytest.raises(PayloadError, match="takes two"):
            encode(nested(256, leaf))
    with pytest.raises(PayloadError, match="nested too deeply"):
        encode(nested(256, Packed(1)))


def test_d9_a_value_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(PayloadError, match=r"nested too deeply|too many terms"):
        encode(value)
    value = {"tuple": ()}
    value["tuple"] = (value,)
    with pytest.raises(PayloadError, match="nested too deeply"):
        encode(value)


def test_d9_deep_values_do_not_depend_on_the_callers_stack():
    def at_depth(frames):
        return at_depth(frames - 1) if frames else decode(encode(nested(256, 1)))

    assert same(at_depth(sys.getrecursionlimit() - 150), nested(256, 1))
    with pytest.raises(PayloadError, match="nested too deeply"):

        def careful(frames):
            return careful(frames - 1) if frames else encode(nested(200, b"b"))

        careful(sys.getrecursionlimit() - 150)
    with pytest.raises(PayloadError, match="nested too deeply"):

        def unordered(frames):
            return unordered(frames - 1) if frames else encode_with_digest(nested(250, {"b": 1, "a": 2}))

        unordered(sys.getrecursionlimit() - 150)


def test_d9_limits_are_kept_and_configurable():
    small = Limits(size_bytes_max=100, terms_max=10)
    assert decode(encode("x" * 94, small), small) == "x" * 94
    for value in ("x" * 95, "x" * 1000, b"x" * 1000, ["x" * 60, "y" * 60], {"k" * 200: 1}, ["é" * 60]):
        with pytest.raises(PayloadError, match="expected at most 100"):
            encode(value, small)
    assert encode([1] * 9, small)
    for value in ([1] * 10, {str(n): n for n in range(5)}, (1,) * 10, [b"b"] * 4):
        with pytest.raises(PayloadError, match="too many terms"):
            encode(value, small)
    with pytest.raises(PayloadError, match="expected at most 100"):
        decode(encode("x" * 200), small)
    with pytest.raises(PayloadError, match="too many terms"):
        decode(encode([1] * 10), small)
    assert Limits(size_bytes_max=16 * 2**20, terms_max=1_000_000) == DEFAULT_LIMITS


def test_d6_equal_payloads_have_equal_digests_whatever_the_order_of_their_keys():
    pairs = [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        ({1: 1, "a": b"b", (2,): 3}, {(2,): 3, 1: 1, "a": b"b"}),
        ([{"é": 1, "z": 2}], [{"z": 2, "é": 1}]),
    ]
    for one, other in pairs:
        assert encode_with_digest(one).digest == encode_with_digest(other).digest
        assert encode_with_digest(one).data == encode(one)
    assert encode_with_digest({"a": 1}).digest != encode_with_digest({"a": 1.0}).digest
    assert encode_with_digest({"a": 1}).digest != encode_with_digest({"a": True}).digest


HOSTILE = {
    "nothing": "",
    "another version": "82",
    "no term": "83",
    "the seventeen bytes that crash erlpack": "8368025000000014789ccb0200006b006b",
    "compressed": "835000000003789c4b6402000029001c",
    "unknown tag": "8301",
    "float in text": "8363" + "00" * 31,
    "bit string": "834d0000000108ff",
    "pid": "8367",
    "short binary": "836dffffffff616263",
    "short atom": "8364000a6162",
    "short float": "834600",
    "short integer": "836200",
    "short big": "836e0800ff",
    "short large big": "836fffffffff00",
    "big with a sign of 2": "836e0102ff",
    "short string": "836bffff00",
    "list that lies about its size": "836cffffffff6a",
    "tuple that lies about its size": "8369ffffffff",
    "map that lies about its size": "8374ffffffff",
    "map without its last value": "837400000002610161026103",
    "deeper than erlpack packs": "83" + "6801" * 257 + "6a",
    "improper list": "836c0000000161016102",
    "list without an end": "836c000000016101",
    "trailing bytes": "836a6a",
    "duplicate keys": "8374000000026101610161016102",
    "keys that are one in Python": "837400000002" + "61016102" + "463ff0000000000000" + "6103",
    "a list as key": "8374000000016a6101",
    "an atom that is not UTF-8": "837701ff",
    "tuple that ends before its tag": "836802",
    "tuple that ends in its tag": "836802640006626962",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_d9_hostile_bytes_end_in_payload_error(name):
    with pytest.raises(PayloadError, match="not a payload") as refused:
        decode(bytes.fromhex(HOSTILE[name]))
    assert refused.value.offset is not None


def test_d9_no_prefix_and_no_extension_of_a_payload_is_one():
    whole = encode({"a": [1, 2.5, b"b", Atom("c"), (None, True)], 7: "é" * 10, "big": [2**63, -(2**40)]})
    for end in range(len(whole)):
        with pytest.raises(PayloadError):
            decode(whole[:end])
    with pytest.raises(PayloadError):
        decode(whole + b"j")


def test_d9_terms_of_the_beam_are_read():
    terms = {
        "836b0003010203": [1, 2, 3],  # STRING_EXT: "a short list of small integers"
        "836c000000006a": [],
        "837705" + b"hello".hex(): Atom("hello"),
        "83760005" + b"hello".hex(): Atom("hello"),
        "837305" + b"hello".hex(): Atom("hello"),
        "837706c3a9c3a9c3a9": Atom("ééé"),
        "8377036e696c": None,
        "836d00000002ff00": b"\xff\x00",  # a binary that is not UTF-8 comes as bytes
        "83690000000261016102": (1, 2),
        "836e0901" + "ff" * 9: -(2**72 - 1),
        "836f0000000900" + "ff" * 9: 2**72 - 1,
        "836802" + "770662696e617279" + "6d00000002ff00": b"\xff\x00",  # {binary, Bin} with a UTF-8 atom
    }
    for term, value in terms.items():
        assert same(decode(bytes.fromhex(term)), value), term


def test_d9_bytes_and_text_keep_their_form_on_the_wire():
    """The forms are an interface: other languages write them too."""
    assert encode("hi").hex() == "836d000000026869"
    assert encode(b"hi").hex() == "836802" + "7306" + b"binary".hex() + "6d000000026869"
    assert encode(Atom("nil")).hex() == "836802" + "7304" + b"atom".hex() + "6d000000036e696c"


def test_d9_decoding_takes_time_in_proportion_to_its_input():
    """A list of lists of a million terms, within the limits, and a big integer of 100 kB: none takes a minute."""
    script = (
        "import sys; from signal_ledger.codec import decode\n"
        "decode(bytes.fromhex('836c000f4000') + b'j' * 999_424 + b'j')\n"
        "decode(b'\\x83o' + (100_000).to_bytes(4) + b'\\0' + b'\\xff' * 100_000)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_d9_threads_do_not_mix_their_payloads():
    values = [{"thread": number, "text": "x" * number} for number in range(8)]
    wrong = []

    def work(value):
        data = encode(value)
        for _ in range(500):
            if encode(value) != data or decode(data) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_d9_keys_made_to_hash_alike_are_refused_and_take_no_quadratic_time():
    def keys(count):
        # Python hashes an integer by its remainder modulo 2**61 - 1.
        terms = [(2**61 - 1) * (2**64 + number) for number in range(count)]
        return b"".join(b"n\x11\x00" + term.to_bytes(17, "little") + b"a\x01" for term in terms)

    few = decode(b"\x83t" + (100).to_bytes(4) + keys(100))
    assert len(few) == 100
    with pytest.raises(PayloadError, match="too many keys that hash alike"):
        decode(b"\x83t" + (10_000).to_bytes(4) + keys(10_000))


def test_limits_are_those_that_were_given_or_the_default_ones():
    own = Limits(size_bytes_max=100)
    assert to_limits(own) is own
    assert to_limits(None) is DEFAULT_LIMITS
    with pytest.raises(TypeError, match=r"limits: expected signal_ledger\.Limits or None, got dict"):
        to_limits({"size_bytes_max": 100})
