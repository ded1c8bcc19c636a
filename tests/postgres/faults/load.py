"""Signals, as fast as some tasks can send them, and what became of each."""

import asyncio
import contextlib
import itertools
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass

from signal_ledger import DeliveryUnknown


@dataclass(frozen=True, slots=True)
class Sent:
    job_id: int
    payload: dict
    signal_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a fault did.

    Attributes:
        acknowledged: Signals whose sender has a receipt.
        lost: Those of them that are not in the log with equal payloads.
        doubled: Signals that are in the log more than once, after the unknown ones were sent again.
        unknown: Signals whose sender was told that nobody knows.
        committed: Those of them that were in the log.
        worst_s: The longest that a call took.
    """

    acknowledged: int
    lost: int
    doubled: int
    unknown: int
    committed: int
    worst_s: float


class Load:
    def __init__(self, sender, job_ids, *, timeout):
        self.sender = sender
        self.acknowledged = []
        self.unknown = []
        self.worst_s = 0.0
        self._job_ids = job_ids
        self._jobs = itertools.cycle(job_ids)
        self._numbers = itertools.count()
        self._timeout = timeout
        self._is_over = False

    async def send(self):
        job_id = next(self._jobs)
        payload = {"number": next(self._numbers), "bytes": os.urandom(20)}
        began = time.monotonic()
        try:
            receipt = await self.sender.signal(job_id, payload, timeout=self._timeout)
        except DeliveryUnknown as unknown:
            self.unknown.append(Sent(job_id, payload, unknown.signal_id))
        else:
            self.acknowledged.append(Sent(job_id, payload, receipt.signal_id))
        self.worst_s = max(self.worst_s, time.monotonic() - began)

    async def _keep_sending(self):
        while not self._is_over:
            await self.send()

    @contextlib.asynccontextmanager
    async def running(self, tasks):
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(self._keep_sending())
            try:
                yield
            finally:
                self._is_over = True

    def has_sent(self, count):
        """A condition: so many more were acknowledged than now."""
        goal = len(self.acknowledged) + count
        return lambda: len(self.acknowledged) >= goal

    async def figures(self, ledger, record=None):
        """Compare with the log what senders were told, after those who were told nothing have sent again."""
        committed = await self._delivered(ledger)
        for sent in self.unknown:
            receipt = await ledger.signal(sent.job_id, sent.payload, key=sent.signal_id)
            was_there = (sent.job_id, sent.signal_id) in committed
            assert (receipt.outcome == "duplicate") == was_there
        after = await self._delivered(ledger)
        numbers = Counter(payload["number"] for payload in after.values())
        assert {sent.payload["number"] for sent in self.unknown} <= numbers.keys()
        figures = Figures(
            acknowledged=len(self.acknowledged),
            lost=sum(after.get((sent.job_id, sent.signal_id)) != sent.payload for sent in self.acknowledged),
            doubled=sum(count > 1 for count in numbers.values()),
            unknown=len(self.unknown),
            committed=sum((sent.job_id, sent.signal_id) in committed for sent in self.unknown),
            worst_s=round(self.worst_s, 3),
        )
        if record is not None:
            for name, value in asdict(figures).items():
                record(name, value)
        print(figures)
        assert len(after) == figures.acknowledged + figures.unknown
        assert (figures.lost, figures.doubled) == (0, 0)
        return figures

    async def _delivered(self, ledger):
        # By streams: the whole log is told up to the oldest transaction that still runs only.
        return {
            (event.job_id, event.signal_id): event.payload
            for job_id in self._job_ids
            for event in await ledger.history(job_id)
            if event.kind == "delivered" and isinstance(event.payload, dict) and "number" in event.payload
        }
