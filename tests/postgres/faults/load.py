"""Signals, as fast as some tasks can send them, and what became of each."""

import asyncio
import contextlib
import itertools
import os
import time
from collections import Counter
from dataclasses import dataclass

from signal_ledger import DeliveryUnknown
from tests.fault_figures import Figures


@dataclass(frozen=True, slots=True)
class Sent:
    job_id: int
    payload: dict
    signal_id: str


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

    async def send(self, several=1):
        payload = {"number": next(self._numbers), "bytes": os.urandom(20)}
        began = time.monotonic()
        if several == 1:
            await self._send_to(next(self._jobs), payload)
        else:
            targets = [next(self._jobs) for _ in range(several)]
            receipts = await self.sender.signal(targets, payload, timeout=self._timeout)
            self.acknowledged += [Sent(receipt.job_id, payload, receipt.signal_id) for receipt in receipts]
        self.worst_s = max(self.worst_s, time.monotonic() - began)

    async def _send_to(self, job_id, payload):
        try:
            receipt = await self.sender.signal(job_id, payload, timeout=self._timeout)
        except DeliveryUnknown as unknown:
            self.unknown.append(Sent(job_id, payload, unknown.signal_id))
        else:
            self.acknowledged.append(Sent(job_id, payload, receipt.signal_id))

    async def _keep_sending(self, several=1):
        while not self._is_over:
            await self.send(several)

    @contextlib.asynccontextmanager
    async def running(self, tasks, *, lists=0, several=4):
        """Have so many tasks send to one job at a time, and so many to several in one call, which may not fail."""
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(self._keep_sending())
            for _ in range(lists):
                group.create_task(self._keep_sending(several))
            try:
                yield
            finally:
                self._is_over = True

    def has_sent(self, count):
        """A condition: so many more were acknowledged than now."""
        goal = len(self.acknowledged) + count
        return lambda: len(self.acknowledged) >= goal

    async def figures(self, ledger, record_property=None, *, happened=0):
        """Compare with the log what senders were told, after those who were told nothing have sent again.

        Args:
            ledger: The log.
            record_property: Writes the figures down, with how often the fault happened: at least once.
            happened: How often that was.
        """
        committed = await self._delivered(ledger)
        for sent in self.unknown:
            receipt = await ledger.signal(sent.job_id, sent.payload, key=sent.signal_id)
            was_there = (sent.job_id, sent.signal_id) in committed
            assert (receipt.outcome == "duplicate") == was_there
        after = await self._delivered(ledger)
        numbers = Counter((job_id, payload["number"]) for (job_id, _), payload in after.items())
        assert {(sent.job_id, sent.payload["number"]) for sent in self.unknown} <= numbers.keys()
        figures = Figures(
            acknowledged=len(self.acknowledged),
            lost=sum(after.get((sent.job_id, sent.signal_id)) != sent.payload for sent in self.acknowledged),
            doubled=sum(count > 1 for count in numbers.values()),
            unknown=len(self.unknown),
            committed=sum((sent.job_id, sent.signal_id) in committed for sent in self.unknown),
            worst_s=round(self.worst_s, 3),
        )
        print(figures)
        assert len(after) == figures.acknowledged + figures.unknown
        if record_property is not None:
            figures.record(record_property, happened=happened)
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
