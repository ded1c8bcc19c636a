"""What a run does, drawn from its seed: the jobs' scripts, the clients' calls, the faults. Interleavings vary."""

import random
from dataclasses import asdict, dataclass

from tests.torture.history import Step

CHANNELS = ("", "votes", "übrig")
KEYS = 6
PAYLOAD_BYTES_MAX = 200_000


def rng_of(seed, *names):
    """The source of randomness for a part of a run."""
    return random.Random("/".join(map(str, (seed, *names))))


def script(rng):
    """The awaits of a job, in order: with and without a deadline, in place, live and snoozed at once."""
    return [
        Step(
            channel=rng.choice(CHANNELS),
            wait_for=rng.choice([None, None, None, 0.05, 0.2, 0.5, 1.5, 3.0, 3600.0]),
            window=rng.choice([0.0, 0.0, 0.0, 0.05, 0.3, 0.8]),
        )
        for _ in range(rng.randint(3, 30))
    ]


def args_of(steps, *, seed, fails=0.04):
    """The args of a job that follows a script.

    Args:
        steps: Its awaits.
        seed: Of where it fails, dawdles and gives an await up.
        fails: How probable it is that an execution fails before an await.
    """
    return {"steps": [asdict(step) for step in steps], "seed": seed, "fails": fails}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A signal to send.

    Attributes:
        targets: How many jobs.
        channel: As stored.
        key: The caller's key.
        tag: What its payload is made of.
        size: How many bytes of ballast it carries.
        timeout_s: What the call may take.
        retries: Whether a call without an answer is repeated with its id as the key.
        conflicts: Whether it uses a key for another payload than the others do.
    """

    targets: int
    channel: str
    key: str | None
    tag: str
    size: int
    timeout_s: float
    retries: bool
    conflicts: bool


def sending(rng, tag):
    """The next signal of a client."""
    key = conflicts = None
    channel = rng.choice(CHANNELS)
    if rng.random() < 0.25:
        number = rng.randrange(KEYS)
        # Whoever uses a key sends the same under it, on one channel; nearly always.
        key, channel, conflicts = f"key-{number}", CHANNELS[number % len(CHANNELS)], rng.random() < 0.1
        tag = f"other-{number}" if conflicts else f"keyed-{number}"
    return Sending(
        targets=rng.choice([1, 1, 1, 1, 2, 5]),
        channel=channel,
        key=key,
        tag=tag,
        size=0 if key or rng.random() < 0.95 else rng.randrange(PAYLOAD_BYTES_MAX),
        timeout_s=rng.choice([0.3, 2.0, 10.0]),
        retries=rng.random() < 0.7,
        conflicts=bool(conflicts),
    )


def payload(tag, size):
    """A value of many types that is no other signal's."""
    return {"tag": tag, "types": (tag.encode(), [1.5, None, True, -(2**60)], {2: "zwei"}), b"ballast": b"x" * size}


def faults(rng, kinds, count):
    """Which faults to play, in order: each kind once before any comes again."""
    order = []
    while len(order) < count:
        order += rng.sample(kinds, len(kinds))
    return order[:count]
