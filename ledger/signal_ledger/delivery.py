"""Sending signals: from a caller's arguments to receipts, with retries that deliver at most once."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha1
from typing import Protocol, overload
from uuid import UUID

from signal_ledger.arguments import to_channel, to_optional_text, to_seconds, to_targets
from signal_ledger.codec import DEFAULT_LIMITS, Limits, encode_with_digest
from signal_ledger.commands import Deliver, new_deliver
from signal_ledger.decisions import DeliverReply, Fate
from signal_ledger.errors import DeliveryUnknown
from signal_ledger.names import JobId, SignalId, to_uuid
from signal_ledger.offline import current_notebook
from signal_ledger.operations import DeliverCall, new_deliver_call
from signal_ledger.ports import DeliveryStore, StoreUnavailableError
from signal_ledger.receipt import Outcome, Receipt, stored_receipt, to_receipt
from signal_ledger.telemetry.names import DELIVERED, SIGNAL, SIGNAL_RETRY
from signal_ledger.telemetry.registry import execute, observed, span
from signal_ledger.telemetry.tracing import TRACES, current_traceparent

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0
"""How long a call may take with its retries, unless the caller says otherwise."""

_RETRY_DELAY_S = 0.05
_RETRY_DELAY_MAX_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Sends signals to one store.

    Args:
        store: Where they go.
        new_id: Draws an id for a call: a random UUID as text.
        limits: Bounds on payloads.
        delivered: Told of each job whose signal woke it or reached it live, so that an engine need not poll.
    """

    store: DeliveryStore
    new_id: Callable[[], SignalId]
    limits: Limits = DEFAULT_LIMITS
    delivered: Callable[[JobId, Outcome], None] = lambda _job_id, _outcome: None

    async def send(
        self,
        target: object,
        payload: object,
        *,
        channel: str | None,
        key: str | None,
        source: str | None,
        timeout: float,  # noqa: ASYNC109 - it bounds the retries, and ends in DeliveryUnknown
        conn: object = None,
    ) -> Receipt | list[Receipt]:
        """Send a signal; see `signal_ledger.signal`."""
        job_ids, is_single = to_targets(target)
        checked_key = to_optional_text("key", key)
        timeout_s = to_seconds("timeout", timeout)
        stored_channel = to_channel(channel)
        checked_source = to_optional_text("source", source)
        encoded = encode_with_digest(payload, self.limits)
        traceparent = current_traceparent() if TRACES in observed else None
        # Who repeats a call that got no answer gives its id as the key. The repeat has the ids of that call: should the
        # database carry it out after all, it finds them taken.
        repeated_id = None if checked_key is None else _call_id(checked_key)
        call_id = repeated_id or self.new_id()
        call = b"" if is_single and repeated_id is None else UUID(call_id).bytes
        deliveries = tuple(
            [
                new_deliver(
                    job_id=job_id,
                    signal_id=call_id if is_single else _id_in_list(call, job_id),
                    channel=stored_channel,
                    payload=encoded.data,
                    payload_digest=encoded.digest,
                    key=checked_key,
                    key_ids=() if repeated_id is None else (repeated_id, _id_in_list(call, job_id)),
                    source=checked_source,
                    traceparent=traceparent,
                )
                for job_id in (job_ids if is_single else dict.fromkeys(job_ids))
            ]
        )
        if not deliveries:
            return []
        if conn is None:
            replies = await self._deliver(new_deliver_call(deliveries=deliveries), call_id, timeout_s)
            receipts = self._receipts(deliveries, replies)
        else:
            await self._store(conn, deliveries, call_id, timeout_s)
            receipts = [stored_receipt(delivery.job_id, delivery.signal_id) for delivery in deliveries]
        return receipts[0] if is_single else _in_order(job_ids, receipts)

    async def _deliver(self, call: DeliverCall, call_id: SignalId, timeout_s: float) -> list[DeliverReply]:
        """Deliver, and try again as long as there is time: the ids stay the same, so nothing is delivered twice."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        delay_s = _RETRY_DELAY_S
        left_s = timeout_s
        tries = 0
        trouble: StoreUnavailableError | None = None
        while True:
            try:
                return await self.store.deliver(call, timeout_s=left_s)
            except TimeoutError as error:
                # What was in the way before says more than that the time is up.
                cause = error.__cause__ or trouble
                reason = str(error) or (None if trouble is None else str(trouble))
                raise DeliveryUnknown(signal_id=call_id, timeout_s=timeout_s, reason=reason) from cause
            except StoreUnavailableError as error:
                trouble = error
                logger.warning("a signal could not be stored yet: %s", error)
                left_s = ends - loop.time()
                if left_s <= 0:
                    raise DeliveryUnknown(signal_id=call_id, timeout_s=timeout_s, reason=str(error)) from error
            call = call.again()
            tries += 1
            if SIGNAL_RETRY in observed:
                delay = round(min(delay_s, left_s) * 1e9)
                execute(SIGNAL_RETRY, {"tries": tries, "delay": delay, "error_type": _fault_of(trouble)})
            await asyncio.sleep(min(delay_s, left_s))
            left_s = max(0.0, ends - loop.time())
            delay_s = min(2 * delay_s, _RETRY_DELAY_MAX_S)

    def _receipts(self, deliveries: tuple[Deliver, ...], replies: list[DeliverReply]) -> list[Receipt]:
        receipts = []
        for delivery, reply in zip(deliveries, replies, strict=True):
            receipt = to_receipt(delivery.job_id, delivery.signal_id, reply)
            outcome = receipt.outcome
            if outcome is Outcome.WOKEN or outcome is Outcome.LIVE:
                self.delivered(delivery.job_id, outcome)
            receipts.append(receipt)
        return receipts

    async def _store(
        self, connection: object, deliveries: tuple[Deliver, ...], call_id: SignalId, timeout_s: float
    ) -> None:
        """Store in the caller's own transaction (promise D8): once, since only the caller can begin it anew."""
        storing = asyncio.ensure_future(self.store.store_with(connection, deliveries))
        try:
            await asyncio.wait([storing], timeout=timeout_s)
        finally:
            # Nobody waits for the driver to cancel its statement, which a frozen server would never do.
            storing.cancel()
            storing.add_done_callback(_forget)
        if not storing.done():
            raise DeliveryUnknown(signal_id=call_id, timeout_s=timeout_s)
        storing.result()


def _fault_of(trouble: StoreUnavailableError) -> str:
    """Name what was in the way: what the driver raised, if it is known."""
    return type(trouble.__cause__ or trouble).__name__


def _forget(storing: "asyncio.Future[None]") -> None:
    """Look at what became of a statement that may have been given up, lest asyncio complains that nobody did."""
    if not storing.cancelled():
        storing.exception()


def _id_in_list(call: bytes, job_id: JobId) -> SignalId:
    """Each delivery of a list gets an id of its own, the same one in every try of the call.

    It is the UUID of the job's id in the namespace of the call's id: RFC 9562, version 5. That takes a sixth of what
    ``uuid5`` does.
    """
    return to_uuid(sha1(call + b"%d" % job_id, usedforsecurity=False).hexdigest(), version=5)


def _call_id(key: str) -> SignalId | None:
    """The key, if it may be the id of a call (see `DeliveryUnknown`)."""
    try:
        call_id = SignalId(str(UUID(key)))
    except ValueError:
        return None
    return call_id if call_id == key else None


def _in_order(job_ids: list[JobId], receipts: list[Receipt]) -> list[Receipt]:
    """One receipt for each target; a job listed again got the signal the first time (promise D2)."""
    if len(receipts) == len(job_ids):
        return receipts
    by_job = {receipt.job_id: receipt for receipt in receipts}
    listed = []
    for job_id in job_ids:
        receipt = by_job[job_id]
        listed.append(receipt)
        if receipt.outcome not in (Outcome.IGNORED, Outcome.DUPLICATE):
            by_job[job_id] = replace(receipt, outcome=Outcome.DUPLICATE, reason=Fate.PENDING.value)
    return listed


class HasId(Protocol):
    """A job: anything with an ``id``."""

    @property
    def id(self) -> int | None:
        """The job's id; None before it is enqueued."""
        ...


class CanSignal(ABC):
    """Something that signals can be sent through: an engine, or a ledger."""

    @property
    @abstractmethod
    def _signals(self) -> Sender:
        """The way to the store."""

    @overload
    async def signal(
        self,
        target: int | HasId,
        payload: object,
        *,
        channel: str | None = None,
        key: str | None = None,
        source: str | None = None,
        conn: object = None,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109
    ) -> Receipt: ...
    @overload
    async def signal(
        self,
        target: Iterable[int | HasId],
        payload: object,
        *,
        channel: str | None = None,
        key: str | None = None,
        source: str | None = None,
        conn: object = None,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109
    ) -> list[Receipt]: ...

    async def signal(
        self,
        target: int | HasId | Iterable[int | HasId],
        payload: object,
        *,
        channel: str | None = None,
        key: str | None = None,
        source: str | None = None,
        conn: object = None,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109
    ) -> Receipt | list[Receipt]:
        """Deliver a signal to one job or to several; see `signal_ledger.signal`.

        Raises:
            RuntimeError: This is closed, or can only be read.
        """
        notebook = current_notebook()
        if notebook is not None:
            sender, conn = Sender(store=notebook, new_id=notebook.new_id), None
        else:
            sender = self._signals
            if SIGNAL in observed or DELIVERED in observed:
                return await _send_and_tell(
                    sender, target, payload, channel=channel, key=key, source=source, conn=conn, timeout=timeout
                )
        return await sender.send(target, payload, channel=channel, key=key, source=source, conn=conn, timeout=timeout)


async def _send_and_tell(
    sender: Sender,
    target: object,
    payload: object,
    *,
    channel: str | None,
    key: str | None,
    source: str | None,
    conn: object,
    timeout: float,  # noqa: ASYNC109 - see `Sender.send`
) -> Receipt | list[Receipt]:
    """Send a signal, and tell who listens of it. Neither the payload nor the key is told, by any name."""
    job_ids, is_single = to_targets(target)
    to_channel(channel)
    call = {
        "targets": len(job_ids),
        "channel": channel,
        "source": to_optional_text("source", source),
        "has_key": key is not None,
        "stored": conn is not None,
    }
    with span(SIGNAL, call) as told:
        sent = await sender.send(
            job_ids[0] if is_single else job_ids,
            payload,
            channel=channel,
            key=key,
            source=source,
            conn=conn,
            timeout=timeout,
        )
        receipts = [sent] if isinstance(sent, Receipt) else sent
        told.add({"outcomes": dict(Counter([receipt.outcome.value for receipt in receipts]))})
        if DELIVERED in observed:
            for receipt in receipts:
                execute(DELIVERED, _delivered(receipt, channel, source))
    return sent


def _delivered(receipt: Receipt, channel: str | None, source: str | None) -> dict[str, object]:
    return {
        "job_id": receipt.job_id,
        "signal_id": receipt.signal_id,
        "channel": channel,
        "source": source,
        "outcome": receipt.outcome.value,
        "version": receipt.version,
        "reason": receipt.reason,
    }
