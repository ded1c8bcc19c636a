"""What a fault did, in the same figures for every fault, on both engines."""

import time
from collections import Counter
from dataclasses import asdict, dataclass

from signal_ledger import DeliveryUnknown, PayloadError
from signal_ledger.codec import encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a fault did.

    Attributes:
        acknowledged: Signals whose sender has a receipt.
        lost: Those of them that are not in the log with equal payloads.
        doubled: Signals that are in the log more than once, after the unknown ones were sent again.
        unknown: Signals whose sender was told that nobody knows, or who died before it was told anything.
        committed: Those of them that were in the log.
        worst_s: The longest that a call took.
    """

    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    unknown: int = 0
    committed: int = 0
    worst_s: float = 0.0

    def __add__(self, other):
        """Return the figures of both: all signals of both, and the longest call of either."""
        summed = {name: getattr(self, name) + value for name, value in asdict(other).items() if name != "worst_s"}
        return Figures(**summed, worst_s=max(self.worst_s, other.worst_s))

    def record(self, record_property, *, happened):
        """Write them down for the report, with how often the fault happened; check that nothing was lost or doubled."""
        record_property("happened", happened)
        for name, value in asdict(self).items():
            record_property(name, value)
        assert happened, "the fault did not happen"
        assert (self.lost, self.doubled) == (0, 0), self


@dataclass(frozen=True, slots=True)
class Sent:
    """A signal to one job, with a payload that no other signal has; the id is None if the sender never learned it."""

    job_id: int
    payload: object
    signal_id: str | None


def compare(*, acknowledged, unknown, before, after, worst_s):
    """Compare what senders were told with what is in the log.

    Args:
        acknowledged: The signals that senders have receipts of.
        unknown: Those that they have none of.
        before: What was delivered, before unknown ones were sent again.
        after: What was delivered in the end.
        worst_s: The longest that a call took.
    """
    there = {(sent.job_id, sent.signal_id): encode(sent.payload) for sent in after}
    times = Counter(_what(sent) for sent in after)
    were_there = {_what(sent) for sent in before}
    assert times.keys() <= {_what(sent) for sent in (*acknowledged, *unknown)}, "there is a signal that nobody sent"
    return Figures(
        acknowledged=len(acknowledged),
        lost=sum(there.get((sent.job_id, sent.signal_id)) != encode(sent.payload) for sent in acknowledged),
        doubled=sum(count > 1 for count in times.values()),
        unknown=len(unknown),
        committed=sum(_what(sent) in were_there for sent in unknown),
        worst_s=round(worst_s, 3),
    )


def _what(sent):
    return sent.job_id, encode(sent.payload)


async def delivered(ledger, job_ids, channel=None):
    """Return the signals that are in the streams of some jobs, on a channel or on any, and can be read."""
    return [
        Sent(job_id, event.payload, event.signal_id)
        for job_id in job_ids
        for event in await ledger.history(job_id)
        if event.kind == "delivered" and channel in (None, event.channel) and _can_be_read(event)
    ]


def _can_be_read(event):
    try:
        event.payload  # noqa: B018 - whether it raises
    except PayloadError:
        return False
    return True


class Account:
    """What the senders of a test were told, signal by signal."""

    def __init__(self):
        self.acknowledged = []
        self.unknown = []
        self.worst_s = 0.0

    async def signal(self, sender, job_id, payload, **options):
        """Send a signal to a job, as the sender would; what nobody knows of is noted, and raised all the same."""
        began = time.monotonic()
        try:
            receipt = await sender.signal(job_id, payload, **options)
        except DeliveryUnknown as unknown:
            self.unknown.append(Sent(job_id, payload, unknown.signal_id))
            raise
        finally:
            self.worst_s = max(self.worst_s, time.monotonic() - began)
        self.note(receipt, payload)
        return receipt

    def note(self, receipt, payload):
        """Note a receipt that somebody else was given."""
        self.note_told(receipt.job_id, receipt.outcome, receipt.signal_id, 0.0, payload)

    def note_told(self, job_id, outcome, signal_id, took_s, payload):
        """Note what another process was told. A signal to a job that has ended is ignored, and leaves no trace."""
        self.worst_s = max(self.worst_s, took_s)
        if outcome != "ignored":
            self.acknowledged.append(Sent(job_id, payload, signal_id))

    async def figures(self, ledger, *, channel=None):
        """Send again what nobody knows of and has an id, under that, and compare with the log.

        Args:
            ledger: The log.
            channel: On which all was sent, and what is compared; None is the default one, and whatever is in the log.
        """
        job_ids = sorted({sent.job_id for sent in (*self.acknowledged, *self.unknown)})
        before = await delivered(ledger, job_ids, channel)
        repeated = [sent for sent in self.unknown if sent.signal_id is not None]
        for sent in repeated:
            receipt = await ledger.signal(sent.job_id, sent.payload, key=sent.signal_id, channel=channel)
            assert (receipt.outcome == "duplicate") == (_what(sent) in {_what(one) for one in before})
        after = await delivered(ledger, job_ids, channel)
        assert {_what(sent) for sent in repeated} <= {_what(sent) for sent in after}
        return compare(
            acknowledged=self.acknowledged, unknown=self.unknown, before=before, after=after, worst_s=self.worst_s
        )
