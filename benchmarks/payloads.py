"""The codec, beside erlpack's own two functions."""

import time
from collections.abc import Callable

import erlpack

from benchmarks.figures import Figure
from benchmarks.options import Options
from signal_ledger import codec

PAYLOADS: dict[str, object] = {
    "decision": {"decision": "approved"},
    "form": {f"field_{number}": ["text", number, number / 7, True, None] for number in range(20)},
    "64 KiB of bytes": {"file": bytes(65536)},
}


async def payloads(options: Options) -> list[Figure]:
    """Encode and decode some payloads."""
    figures = []
    for name, payload in PAYLOADS.items():
        data = codec.encode(payload)
        packed = erlpack.pack(payload)
        for verb, ours, theirs in (
            ("encode", lambda payload=payload: codec.encode(payload), lambda payload=payload: erlpack.pack(payload)),
            ("decode", lambda data=data: codec.decode(data), lambda packed=packed: erlpack.unpack(packed)),
        ):
            yardstick, own = [], []
            for _ in range(options.rounds):
                yardstick.append(_microseconds(theirs, options.seconds / 10))
                own.append(_microseconds(ours, options.seconds / 10))
            other = "erlpack.pack" if verb == "encode" else "erlpack.unpack"
            figures.append(
                Figure(
                    name=f"{verb} {name}",
                    unit="µs",
                    rounds=tuple(own),
                    yardstick=Figure(name=other, unit="µs", rounds=tuple(yardstick)),
                )
            )
    return figures


def _microseconds(call: Callable[[], object], seconds: float) -> float:
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(50):
            call()
        count += 50
    return (time.perf_counter() - started) / count * 1e6
