"""Payloads that are damaged, or that other programs have written (promises L7, D9)."""

import json
import pickle
import random
import struct
import zlib

from signal_ledger import PayloadError
from signal_ledger.codec import decode, encode

SECRET = "swordfish"
COUNT = 40_000

SOUND = [
    SECRET,
    {"secret": SECRET, "amount": 12.5, "flags": [True, False, None], "raw": b"\xff\x00"},
    [[SECRET, number, -number, 2**number] for number in range(0, 64, 16)],
    {number: (SECRET, [number]) for number in range(20)},
    (SECRET,) * 30,
]


def foreign():
    """What other programs write, and what Erlang has that Python has not."""
    term = encode({"secret": SECRET})
    atom = b"w\x04node"
    return [
        b"",
        b"\x83",
        SECRET.encode(),
        json.dumps({"secret": SECRET}).encode(),
        pickle.dumps({"secret": SECRET}),
        b"\x83P" + struct.pack(">I", len(term) - 1) + zlib.compress(term[1:]),
        b"\x83P" + struct.pack(">I", 2**31) + zlib.compress(b"a" * 100_000),
        b"\x83X" + atom + b"\0" * 12,
        b"\x83Z\0\x01" + atom + b"\0" * 8,
        b"\x83q" + atom * 2 + b"a\x01",
        b"\x83c" + b"1.25".ljust(31, b"\0"),
        b"\x83F" + struct.pack(">d", float("nan")),
        b"\x83m" + struct.pack(">I", 2**32 - 1) + SECRET.encode(),
        b"\x83l" + struct.pack(">I", 2**32 - 1) + b"a\x01",
        b"\x83i" + struct.pack(">I", 2**32 - 1) + b"a\x01",
        b"\x83t" + struct.pack(">I", 2**32 - 1) + b"a\x01a\x01",
        b"\x83o" + struct.pack(">I", 2**32 - 1) + b"\0" + b"\xff" * 100,
        b"\x83n\xff\0" + b"\xff" * 255,
        b"\x83" + b"h\x01" * 5_000 + b"a\x01",
        b"\x83" + b"l\0\0\0\x01" * 5_000 + b"a\x01" + b"j" * 5_000,
        b"\x83t\0\0\0\x02a\x01a\x01a\x01a\x01",
        b"\x83t\0\0\0\x01jj",
    ]


def damaged(count):
    """So many payloads: bits turned, bytes lost, added, repeated, and noise; the same ones each time."""
    chance = random.Random(4)
    sound = [encode(value) for value in SOUND]
    made = foreign()
    while len(made) < count:
        data = bytearray(chance.choice(sound))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(data) + 1)
            match chance.randrange(6):
                case 0 if place < len(data):
                    data[place] ^= 1 << chance.randrange(8)
                case 1:
                    del data[place:]
                case 2:
                    data[place:place] = chance.randbytes(chance.randint(1, 5))
                case 3:
                    data[place : place + chance.randint(1, 8)] = b""
                case 4:
                    other = chance.choice(sound)
                    data[place:] = other[chance.randrange(len(other)) :]
                case _:
                    data[place : place + 4] = struct.pack(">I", chance.choice([0, 2**16, 2**24, 2**31, 2**32 - 1]))
        made.append(bytes(data) if chance.random() < 0.9 else b"\x83" + chance.randbytes(chance.randint(0, 60)))
    return made[:count]


def is_refused(payload):
    try:
        decode(payload)
    except PayloadError:
        return True
    return False
