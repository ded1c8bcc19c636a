"""What a run has reached: a run in which the interesting cases did not come up proves little."""

from collections import Counter
from itertools import pairwise

CASES = (
    "a signal that woke a job",
    "a signal to a live wait",
    "a signal for later",
    "a key that was there",
    "a key of another signal",
    "a key that two clients used",
    "a signal to a job that had ended",
    "a signal of a transaction that was relayed",
    "a signal of a transaction that was refused",
    "a wait that timed out",
    "a signal after the deadline",
    "a signal between the last look and the acknowledgement",
    "an outcome that was replayed",
    "an execution that another one took over from while it waited",
    "a cancel of a job that executed",
    "a finished job that was retried",
    "a signal that its run's end left behind",
)


def reached(history):
    """Count the cases; each of them is there, if only with 0."""
    counts = Counter(dict.fromkeys(CASES, 0))
    _count_calls(history, counts)
    for stream in history.streams().values():
        for run in {event.run for event in stream}:
            _count_run([event for event in stream if event.run == run], counts)
        counts["a finished job that was retried"] += stream[-1].run > 1
    seen = Counter((saw.job_id, saw.channel, saw.ordinal, saw.digest) for saw in history.saws)
    counts["an outcome that was replayed"] += sum(count - 1 for count in seen.values())
    return dict(counts)


def _count_calls(history, counts):
    cases = {
        "woken": "a signal that woke a job",
        "live": "a signal to a live wait",
        "buffered": "a signal for later",
        "duplicate": "a key that was there",
        "ignored": "a signal to a job that had ended",
    }
    sent_in = {call.signal: call.transaction for call in history.calls}
    keyed = {}
    for call in history.calls:
        for told in call.receipts:
            counts[cases[told.outcome]] += 1
            if call.key is not None and told.outcome != "ignored":
                keyed.setdefault((told.job_id, call.key), set()).add(call.id.partition(".")[0])
        counts["a key of another signal"] += call.status == "conflict"
    counts["a key that two clients used"] += sum(len(clients) > 1 for clients in keyed.values())
    relayed = [event for event in history.log if event.kind == "delivered" and sent_in.get(event.source) is not None]
    counts["a signal of a transaction that was relayed"] += len(relayed)
    counts["a signal of a transaction that was refused"] += sum(row.refusal is not None for row in history.outbox)


def _count_run(run, counts):
    pending, deadlines = Counter(), {}
    for event in run:
        match event.kind:
            case "delivered":
                deadline_at = deadlines.get(event.channel)
                counts["a signal after the deadline"] += deadline_at is not None and event.recorded_at > deadline_at
                pending[event.channel] += 1
            case "consumed":
                pending[event.channel] -= 1
                deadlines.pop(event.channel, None)
            case "timed_out":
                counts["a wait that timed out"] += 1
                deadlines.pop(event.channel, None)
            case "awaited" | "snoozed":
                deadlines[event.channel] = event.deadline_at
                is_caught = event.kind == "snoozed" and pending[event.channel] > 0
                counts["a signal between the last look and the acknowledgement"] += is_caught
            case _:
                counts["a signal that its run's end left behind"] += pending.total() > 0
    waits = [event for event in run if event.kind in ("awaited", "snoozed")]
    for one, other in pairwise(waits):
        is_same = (one.channel, one.ordinal) == (other.channel, other.ordinal)
        is_taken_over = is_same and one.kind == "awaited" and one.execution != other.execution
        counts["an execution that another one took over from while it waited"] += is_taken_over
    last = [event for event in run if event.kind != "delivered"][-2:]
    if len(last) == 2 and last[1].kind == "closed" and last[1].cause == "cancelled":
        counts["a cancel of a job that executed"] += last[0].kind != "snoozed"
