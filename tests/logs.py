"""Logs of events that no rule has written, by a clock that steps back: for questions that are about the log alone."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from signal_ledger import ledger as ledgers
from signal_ledger.causes import Cause
from signal_ledger.events import (
    Awaited,
    Cascaded,
    Closed,
    Consumed,
    Delivered,
    DeliveryOutcome,
    Kind,
    Released,
    Skipped,
    Snoozed,
    TimedOut,
)
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.ports import EventFilter
from signal_ledger.stored import to_stored

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
JOBS = range(1, 8)
CHANNELS = ("", "a", "b", "rare")
SOURCES = (None, "ada", "bob", "rare")


@dataclass(frozen=True)
class Mixture:
    """How a log is mixed: some of its parts are rare, or come in a stretch only."""

    seed: int
    size: int
    deliveries: float
    unnamed: float
    step: float


MIXTURES = st.builds(
    Mixture,
    seed=st.integers(0, 2**32),
    size=st.sampled_from([0, 1, 255, 256, 257, 700, 1100, 1536]),
    deliveries=st.sampled_from([0.002, 0.3, 0.99]),
    unnamed=st.sampled_from([0.002, 0.5, 1.0]),
    step=st.sampled_from([0.0, 0.002, 0.02]),
)


def rows_of(mixture):
    """Return the rows of a log, in its order."""
    chance = random.Random(mixture.seed)
    versions = dict.fromkeys(JOBS, 0)
    now, rows = BEGIN, []
    for place in range(1, mixture.size + 1):
        now += timedelta(seconds=chance.choice([0, 0, 1, 1, 2]))
        if chance.random() < mixture.step:
            now += timedelta(seconds=chance.uniform(-600, 300))
        job_id = chance.choice(JOBS)
        versions[job_id] += 1
        rows.append(to_stored(_event(chance, mixture, place, now), job_id=JobId(job_id), version=versions[job_id],
                              recorded_at=now))  # fmt: skip
    return rows


def _event(chance, mixture, place, now):
    channel = "" if chance.random() < mixture.unnamed else chance.choice(CHANNELS[1:])
    signal_id = SignalId(f"00000000-0000-4000-8000-{place:012x}")
    if chance.random() < mixture.deliveries:
        return Delivered(
            run=1, channel=channel, signal_id=signal_id, payload=b"\x83\x6a", payload_digest="0" * 64, key=None,
            source=chance.choice(SOURCES), outcome=DeliveryOutcome.BUFFERED,
        )  # fmt: skip
    wait = {"run": 1, "execution": Execution(1), "attempt": 1, "channel": channel, "ordinal": place}
    return chance.choice(
        [
            lambda: Awaited(**wait, deadline_at=None),
            lambda: Snoozed(**wait, deadline_at=now),
            lambda: Consumed(**wait, signal_id=signal_id, delivery_version=1),
            lambda: TimedOut(**wait, deadline_at=now),
            lambda: Closed(run=1, execution=Execution(1), attempt=1, cause=Cause.COMPLETED),
            lambda: Released(run=1, dep="dep"),
            lambda: Skipped(run=1, dep="dep", cause=Cause.CANCELLED),
            lambda: Cascaded(run=1, dep="dep", cause=Cause.CANCELLED),
        ]
    )()


@st.composite
def questions(draw, everything):
    """Draw what may be asked of a log: filters, and the place of an event to begin behind."""
    times = [recorded.recorded_at for recorded in everything] or [BEGIN]
    instants = st.none() | st.builds(
        lambda at, microseconds: at + timedelta(microseconds=microseconds),
        st.sampled_from(times),
        st.sampled_from([0, 1, -1, 10**9]),
    )
    return {
        "job_id": draw(st.none() | st.sampled_from(JOBS)),
        "kinds": draw(st.none() | st.sets(st.sampled_from(sorted(Kind)), max_size=4)),
        "since": draw(instants),
        "until": draw(instants),
        "source": draw(st.none() | st.sampled_from([*SOURCES[1:], "nobody"])),
        "channel": draw(st.none() | st.sampled_from([*CHANNELS, "nowhere"])),
        "after": draw(
            st.none() | st.sampled_from(everything).map(lambda event: event.cursor) if everything else st.none()
        ),
    }


async def ask(ledger, rows, data, count, reached):
    """Ask so many questions of a log, and compare each answer with a look at every event."""
    everything = [event async for event in ledger.events()]
    assert [(event.job_id, event.version) for event in everything] == [(row.job_id, row.version) for row in rows]
    cursors = [event.cursor for event in everything]
    for _ in range(count):
        asked = data.draw(questions(everything))
        found = [event.cursor async for event in ledger.events(**asked)]
        behind = cursors.index(asked["after"]) + 1 if asked["after"] else 0
        wanted = EventFilter(**asked)
        assert found == [event.cursor for event in everything[behind:] if wanted.matches(event)]
        reached["answered"] += bool(found)
        reached["in several pages"] += len(found) > ledgers._PAGE
