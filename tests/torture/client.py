"""A client process: ``python -m tests.torture.client ENGINE URL FOLDER NAME SEED`` signals until its input closes.

Each line of its input asks for a report of what it holds; before the one to the line ``rest`` it ends what it does.
"""

import asyncio
import contextlib
import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

from signal_ledger import DeliveryUnknown, KeyConflict, open_ledger
from signal_ledger.codec import encode_with_digest
from tests.torture import plan, transactions
from tests.torture.holdings import report
from tests.torture.processes import named, opened, tell_if_stuck
from tests.torture.records import Recorder

TASKS = 3
PAUSE_S = 0.06
TICK_S = 0.02
LAG_S = 0.01
"""What a process lost by less at a tick is not written down."""


class Client:
    """Sends signals, and writes down each call before and after it."""

    def __init__(self, ledger, transaction, recorder, folder, name, stops):
        self._ledger = ledger
        self._transaction = transaction
        self._recorder = recorder
        self._folder = folder
        self._name = name
        self._stops = stops
        self._count = 0

    async def run(self, rng):
        while not self._stops.is_set():
            jobs = self._jobs()
            if jobs:
                if rng.random() < 0.15:
                    await self._send_in_transaction(rng, jobs)
                else:
                    await self._send(rng, jobs)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stops.wait(), rng.random() * 2 * PAUSE_S)

    def _jobs(self):
        return [int(line) for line in (self._folder / "jobs").read_text().split()]

    def _draw(self, rng, jobs):
        self._count += 1
        signal = f"{self._name}-{self._count}"
        sending = plan.sending(rng, signal)
        targets = rng.sample(jobs, min(len(jobs), sending.targets))
        if sending.targets > 1 and rng.random() < 0.2:
            targets.append(targets[0])
        return signal, sending, targets

    async def _send(self, rng, jobs):
        """Send one signal, and repeat it until it is known what became of it, or give up."""
        signal, sending, targets = self._draw(rng, jobs)
        key = sending.key
        for attempt in range(1, 6):
            call = f"{signal}.{attempt}"
            self._invoked(call, signal, sending, targets, key)
            try:
                answer = await self._ledger.signal(
                    targets if len(targets) > 1 else targets[0],
                    plan.payload(sending.tag, sending.size),
                    channel=sending.channel or None,
                    key=key,
                    source=signal,
                    timeout=sending.timeout_s,
                )
            except DeliveryUnknown as unknown:
                self._ended(call, "unknown", error="DeliveryUnknown")
                if self._stops.is_set() or not sending.retries:
                    return
                # A signal with a key of its own is repeated with that.
                key = key or unknown.signal_id
                continue
            except KeyConflict as error:
                self._ended(call, "conflict", error=None if sending.conflicts or key else str(error))
            except Exception as error:
                self._ended(call, "error", error=f"{type(error).__name__}: {error}")
            else:
                self._ended(call, "ok", receipts=answer if isinstance(answer, list) else [answer])
            return

    async def _send_in_transaction(self, rng, jobs):
        """Send some signals with the caller's own changes, which are committed or rolled back."""
        self._count += 1
        name = f"{self._name}-{self._count}"
        is_kept = rng.random() < 0.75
        sent = []
        status, error = "rolled back", None
        try:
            async with self._transaction(rng) as (connection, commit):
                for place in range(rng.randint(1, 3)):
                    signal, sending, targets = self._draw(rng, jobs)
                    call = f"{signal}.1"
                    self._invoked(call, signal, sending, targets, sending.key, transaction=(name, place))
                    sent.append(call)
                    await self._ledger.signal(
                        targets if len(targets) > 1 else targets[0],
                        plan.payload(sending.tag, sending.size),
                        channel=sending.channel or None,
                        key=sending.key,
                        source=signal,
                        conn=connection,
                        timeout=sending.timeout_s,
                    )
                if is_kept:
                    status = "unknown"
                    await commit()
                    status = "ok"
        except Exception as caught:
            # Whatever the connection met: the caller knows only whether the commit was answered.
            error = f"{type(caught).__name__}: {caught}"
        for call in sent:
            self._ended(call, status, error=error)

    def _invoked(self, call, signal, sending, targets, key, *, transaction=None):
        encoded = encode_with_digest(plan.payload(sending.tag, sending.size))
        self._recorder.write(
            "invoked",
            call=call,
            signal=signal,
            targets=targets,
            channel=sending.channel,
            key=key,
            digest=encoded.digest,
            bytes_digest=hashlib.sha256(encoded.data).hexdigest(),
            transaction=transaction,
            timeout_s=sending.timeout_s,
        )

    def _ended(self, call, status, *, receipts=(), error=None):
        told = [
            {
                "job_id": receipt.job_id,
                "outcome": receipt.outcome,
                "signal_id": receipt.signal_id,
                "version": receipt.version,
                "reason": receipt.reason,
            }
            for receipt in receipts
        ]
        self._recorder.write("ended", call=call, status=status, receipts=told, error=error)


def watch_lags(recorder, ends):
    """Write down whenever this process stood still: stopped by somebody, or without a processor.

    In a thread: what blocks only the event loop is no excuse for a call that ends late.
    """
    before = time.monotonic_ns()
    while not ends.wait(TICK_S):
        now = time.monotonic_ns()
        lag = now - before - round(TICK_S * 1e9)
        if lag > LAG_S * 1e9:
            recorder.write("lagged", lag=lag)
        before = now


async def main():
    engine, url, folder, name, seed = sys.argv[1:]
    recorder = Recorder(Path(folder) / f"client-{quote(name)}.jsonl")
    stops = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        own = transactions.of(engine, named(url, "own", name))
        ledger = await stack.enter_async_context(await opened(lambda: open_ledger(named(url, "client", name))))
        client = Client(ledger, own, recorder, Path(folder), name, stops)
        ends = threading.Event()
        stack.callback(ends.set)
        threading.Thread(target=watch_lags, args=(recorder, ends), daemon=True).start()
        sending = asyncio.gather(*[client.run(plan.rng_of(seed, name, task)) for task in range(TASKS)])
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line == "rest\n":
                stops.set()
                await sending
            print(json.dumps(report()), flush=True)
        tell_if_stuck()
        stops.set()
        await sending


if __name__ == "__main__":
    asyncio.run(main())
