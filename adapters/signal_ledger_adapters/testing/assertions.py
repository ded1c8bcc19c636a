"""Assertions on waits, signals and receipts, for tests on any engine or ledger.

Each is awaited, but for `assert_receipt`. What they say when they fail shows the job's history, and no payloads; see
`signal_ledger_adapters.testing.telling`.
"""

import math
from collections.abc import Iterable
from datetime import timedelta

from signal_ledger.arguments import to_channel, to_duration, to_optional_text
from signal_ledger.codec import decode, encode, encode_with_digest
from signal_ledger.delivery import HasId
from signal_ledger.engines import Engine
from signal_ledger.errors import PayloadError
from signal_ledger.events import Delivered, TimedOut
from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.names import DEFAULT_CHANNEL
from signal_ledger.ports import WaitingJob
from signal_ledger.receipt import Outcome, Receipt
from signal_ledger.recorded import RecordedEvent
from signal_ledger_adapters.testing.asking import Asked
from signal_ledger_adapters.testing.difference import difference
from signal_ledger_adapters.testing.telling import until_told, wait_told


async def assert_waiting(
    job: int | HasId,
    *,
    channel: str | None = None,
    deadline_in: float | timedelta | None = None,
    via: Engine | Ledger | None = None,
) -> WaitingJob:
    """Assert that a job waits for a signal.

    Args:
        job: The job, or its id.
        channel: On this channel; "" is the default channel, None any.
        deadline_in: Until so long from now by the engine's clock, in seconds or as a timedelta; give or take a second,
            and on an engine whose time is real ten, since that goes on. `math.inf` is without a deadline, None whatever
            it is.
        via: The engine or ledger to ask. Unless given, the only engine that is open.

    Returns:
        The wait.

    Raises:
        AssertionError: It does not.

    Example:
        >>> import asyncio
        >>> from datetime import timedelta
        >>> from oban import worker
        >>> from signal_ledger import await_signal, testing
        >>>
        >>> @worker()
        ... class Approval:
        ...     async def process(self, job):
        ...         await await_signal(wait_for=timedelta(days=1), channel="approval")
        >>>
        >>> async def main():
        ...     async with testing.engine() as engine:
        ...         job = await Approval.enqueue()
        ...         await engine.drain()
        ...         await testing.assert_waiting(job, channel="approval", deadline_in=timedelta(days=1))
        >>>
        >>> asyncio.run(main())
    """
    __tracebackhide__ = True
    asked = Asked(job, via)
    wait = await asked.wait()
    expected = f"to wait{_on(channel)}"
    if wait is None:
        raise await asked.failure(expected, await asked.what_it_does())
    if _filter(channel) not in (None, wait.channel or DEFAULT_CHANNEL):
        raise await asked.failure(expected, f"it waits {wait_told(wait.channel)}")
    if deadline_in is not None:
        left_s = math.inf if wait.deadline_at is None else (wait.deadline_at - asked.now()).total_seconds()
        wanted_s = _seconds(deadline_in)
        # Two infinities differ by no number.
        if left_s != wanted_s and not abs(left_s - wanted_s) <= asked.tolerance_s:
            raise await asked.failure(f"to wait {_for(wanted_s)}", f"it waits {_for(left_s)}")
    return wait


async def assert_not_waiting(job: int | HasId, *, via: Engine | Ledger | None = None) -> None:
    """Assert that a job does not wait for a signal.

    Args:
        job: The job, or its id.
        via: As for `assert_waiting`.

    Raises:
        AssertionError: It does.
    """
    __tracebackhide__ = True
    asked = Asked(job, via)
    wait = await asked.wait()
    if wait is not None:
        raise await asked.failure("not to wait", f"it waits {wait_told(wait.channel)}{until_told(wait.deadline_at)}")


async def assert_state(job: int | HasId, state: str, *, via: Engine | None = None) -> None:
    """Assert that a job is in a state.

    Args:
        job: The job, or its id.
        state: As Oban calls it: ``available``, ``cancelled``, ``completed``, ``discarded``, ``executing``,
            ``retryable``, ``scheduled`` or ``suspended``. One that waits for a signal is scheduled.
        via: The engine to ask; a ledger knows of no jobs. Unless given, the only engine that is open.

    Raises:
        AssertionError: It is in another one, or is not there.
        ValueError: There is no such state.
    """
    __tracebackhide__ = True
    if state not in tuple(JobState):
        raise ValueError(f"state: expected one of {', '.join(JobState)}, got {state!r}")
    asked = Asked(job, via)
    if await asked.state() != state:
        raise await asked.failure(f"to be {state}", await asked.what_it_does())


async def assert_signalled(
    job: int | HasId,
    *,
    payload: object = ...,
    channel: str | None = None,
    source: str | None = None,
    key: str | None = None,
    via: Engine | Ledger | None = None,
) -> RecordedEvent:
    """Assert that a job was signalled, whatever became of the signal.

    Args:
        job: The job, or its id.
        payload: With this payload, of the same types: 1 is neither True nor 1.0. ``...`` is any.
        channel: On this channel; "" is the default channel, None any.
        source: By this source; None is any.
        key: With this key; None is any.
        via: As for `assert_waiting`.

    Returns:
        The event of the first such delivery.

    Raises:
        AssertionError: There is no such delivery. If only the payload differs, it says where, and not what is there.
    """
    __tracebackhide__ = True
    asked = Asked(job, via)
    stored_channel = _filter(channel)
    expected = f"to be signalled{_on(channel)}"
    expected += "" if source is None else f" by {to_optional_text('source', source)}"
    expected += "" if key is None else f" with key {to_optional_text('key', key)}"
    digest = None if payload is ... else encode_with_digest(payload).digest
    found = "it was never signalled"
    for recorded in await asked.history():
        match recorded.event:
            case Delivered() as event if (
                stored_channel in (None, event.channel) and source in (None, event.source) and key in (None, event.key)
            ):
                if digest in (None, event.payload_digest):
                    return recorded
                found = f"event {recorded.version} is such a signal, but {_difference(payload, recorded)}"
            case Delivered() if found == "it was never signalled":
                found = "it was signalled otherwise"
            case _:
                pass
    raise await asked.failure(expected, found)


async def assert_timed_out(
    job: int | HasId, *, channel: str | None = None, via: Engine | Ledger | None = None
) -> RecordedEvent:
    """Assert that a wait of a job ended because its deadline passed.

    Args:
        job: The job, or its id.
        channel: On this channel; "" is the default channel, None any.
        via: As for `assert_waiting`.

    Returns:
        The event of the first such wait.

    Raises:
        AssertionError: None did.
    """
    __tracebackhide__ = True
    asked = Asked(job, via)
    stored_channel = _filter(channel)
    for recorded in await asked.history():
        match recorded.event:
            case TimedOut() as event if stored_channel in (None, event.channel):
                return recorded
            case _:
                pass
    wait = await asked.wait()
    found = await asked.what_it_does() if wait is None else f"it waits{until_told(wait.deadline_at)}"
    raise await asked.failure(f"a wait{_on(channel)} to have timed out", found)


def assert_receipt(receipts: Receipt | Iterable[Receipt], outcome: str, *, reason: str | None = None) -> None:
    """Assert what became of a signal, or of each of several; it need not be awaited.

    Args:
        receipts: What `signal_ledger.signal` returned.
        outcome: ``woken``, ``live``, ``buffered``, ``duplicate``, ``ignored`` or ``stored``.
        reason: Why; None is whatever it is.

    Raises:
        AssertionError: Something else became of one; or there are no receipts.
        ValueError: There is no such outcome.

    Example:
        >>> from signal_ledger.testing import assert_receipt
        >>> from signal_ledger import Outcome, Receipt
        >>>
        >>> receipt = Receipt(job_id=7, outcome=Outcome.IGNORED, signal_id=None, version=None, reason="completed")
        >>> assert_receipt(receipt, "ignored", reason="completed")
        >>> assert_receipt(receipt, "woken")
        Traceback (most recent call last):
        AssertionError: the signal to job 7: expected woken, got ignored (completed)
    """
    __tracebackhide__ = True
    if outcome not in tuple(Outcome):
        raise ValueError(f"outcome: expected one of {', '.join(Outcome)}, got {outcome!r}")
    several = [receipts] if isinstance(receipts, Receipt) else list(receipts)
    if not several:
        raise AssertionError(f"expected receipts that say {outcome}, got none")
    expected = outcome if reason is None else f"{outcome} ({reason})"
    for receipt in several:
        if receipt.outcome != outcome or reason not in (None, receipt.reason):
            got = receipt.outcome.value + ("" if receipt.reason is None else f" ({receipt.reason})")
            raise AssertionError(f"the signal to job {receipt.job_id}: expected {expected}, got {got}")


def _filter(channel: str | None) -> str | None:
    """Read a channel as the ledger's filters do: None is any, "" the default one."""
    return channel if channel is None or channel == DEFAULT_CHANNEL else to_channel(channel)


def _on(channel: str | None) -> str:
    return "" if channel is None else f" {wait_told(channel)}"


def _difference(payload: object, recorded: RecordedEvent) -> str:
    try:
        # As it would come back: what is a subclass, say, is sent as what it derives from.
        return difference(decode(encode(payload)), recorded.payload) or "payload is another one"
    except PayloadError:
        return "payload cannot be read"


def _seconds(deadline_in: float | timedelta) -> float:
    return math.inf if deadline_in == math.inf else to_duration("deadline_in", deadline_in).total_seconds()


def _for(seconds: float) -> str:
    """Tell how long there is until a deadline."""
    if seconds < 0:
        return f"with a deadline that passed {timedelta(seconds=-seconds)} ago"
    return "without a deadline" if seconds == math.inf else f"for {timedelta(seconds=seconds)}"
