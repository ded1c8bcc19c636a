"""Rules about waits and their outcomes, which the log decides and every execution sees."""

from collections import defaultdict
from datetime import timedelta

from tests.torture.findings import Finding, at

ENDS = ("consumed", "timed_out")
OPENS = ("awaited", "snoozed")


def a_signal_is_consumed_at_most_once(history):
    """By one wait, after its delivery, in its own run and on its own channel (W8)."""
    for stream in history.streams().values():
        delivered, consumed = {}, {}
        for event in stream:
            if event.kind == "delivered":
                delivered[event.signal_id] = event
            elif event.kind == "consumed":
                if event.signal_id in consumed:
                    expected = f"{event.signal_id} consumed at version {consumed[event.signal_id]} only"
                    yield at(event, expected=expected, found="another consumption")
                consumed[event.signal_id] = event.version
                of = delivered.get(event.signal_id)
                if of is None or (of.version, of.run, of.channel) != (event.delivery_version, event.run, event.channel):
                    expected = (
                        f"delivery {event.signal_id} at version {event.delivery_version}, of this run and channel"
                    )
                    yield at(event, expected=expected, found="none" if of is None else f"that at {of.version}")


def a_wait_has_one_outcome(history):
    """At most (W8), and the waits of a channel end one after the other."""
    for stream in history.streams().values():
        ends = defaultdict(int)
        for event in stream:
            if event.kind in ENDS:
                place = (event.run, event.channel)
                ends[place] += 1
                if event.ordinal != ends[place]:
                    yield at(event, expected=f"the outcome of await {ends[place]}", found=f"of await {event.ordinal}")


def every_execution_sees_the_recorded_outcome(history):
    """What an await gave is what the log says, in every execution of the run (W9, D1)."""
    streams = history.streams()
    outcomes = {}
    for job_id, stream in streams.items():
        delivered = {event.version: event for event in stream if event.kind == "delivered"}
        for event in stream:
            if event.kind == "timed_out":
                outcomes[job_id, event.run, event.channel or "", event.ordinal] = ("timeout", None)
            elif event.kind == "consumed" and event.delivery_version in delivered:
                digest = delivered[event.delivery_version].event.payload_digest
                outcomes[job_id, event.run, event.channel or "", event.ordinal] = ("signal", digest)
    for saw in history.saws:
        runs = runs_of(streams.get(saw.job_id, []), saw)
        expected = [outcomes.get((saw.job_id, run, saw.channel, saw.ordinal)) for run in runs]
        if (saw.outcome, saw.digest) not in expected:
            yield Finding(
                job_id=saw.job_id,
                expected=f"await {saw.ordinal} on {saw.channel!r} of run {runs[0]} to give {expected[0] or 'nothing'}",
                found=f"{saw.outcome}, {saw.digest} in execution {saw.execution}",
            )


def channels_are_first_in_first_out(history):
    """Within a run the signals of a channel are consumed in the order of the log, and none is left out (D4)."""
    for stream in history.streams().values():
        waiting = defaultdict(list)
        for event in stream:
            place = (event.run, event.channel)
            if event.kind == "delivered":
                waiting[place].append(event.version)
            elif event.kind == "consumed":
                first = waiting[place][0] if waiting[place] else None
                if event.delivery_version != first:
                    yield at(event, expected=f"delivery {first} consumed", found=f"delivery {event.delivery_version}")
                if event.delivery_version in waiting[place]:
                    waiting[place].remove(event.delivery_version)


def no_wait_times_out_early(history):
    """Neither by the log's time nor by the worker's clock (W7)."""
    ends = {}
    for event in history.log:
        if event.kind == "timed_out":
            ends[event.job_id, event.run, event.channel or "", event.ordinal] = event.deadline_at
            if event.recorded_at <= event.deadline_at:
                yield at(event, expected=f"a time after {event.deadline_at}", found=f"{event.recorded_at}")
    streams = history.streams()
    for saw in history.saws:
        if saw.outcome == "timeout":
            runs = runs_of(streams.get(saw.job_id, []), saw)
            deadlines = [ends.get((saw.job_id, run, saw.channel, saw.ordinal)) for run in runs]
            deadline_at = min((found for found in deadlines if found is not None), default=None)
            if deadline_at is not None and saw.seen_at < deadline_at:
                expected = f"await {saw.ordinal} on {saw.channel!r} to wait until {deadline_at}"
                yield Finding(job_id=saw.job_id, expected=expected, found=f"a timeout at {saw.seen_at}")


def only_the_oldest_signal_is_judged_by_the_deadline(history):
    """In time it is consumed and the wait does not time out; late it cannot revive the wait (W7)."""
    for stream in history.streams().values():
        pending, deadlines = defaultdict(list), {}
        for event in stream:
            place = (event.run, event.channel)
            if event.kind == "delivered":
                pending[place].append(event)
            elif event.kind in OPENS:
                deadlines[place] = event.deadline_at
            elif event.kind == "timed_out":
                oldest = pending[place][0] if pending[place] else None
                if oldest is not None and oldest.recorded_at <= event.deadline_at:
                    yield at(
                        event, expected=f"delivery {oldest.version} consumed, which was in time", found="a timeout"
                    )
                deadlines.pop(place, None)
            elif event.kind == "consumed":
                deadline_at = deadlines.pop(place, None)
                taken = [other for other in pending[place] if other.version == event.delivery_version]
                if taken and deadline_at is not None and taken[0].recorded_at > deadline_at:
                    yield at(event, expected=f"a timeout, since it came after {deadline_at}", found="a consumption")
                pending[place] = [other for other in pending[place] if other.version != event.delivery_version]


def deadlines_never_move(history):
    """Once it is in the log, every later event of the wait has the same one (W6)."""
    for stream in history.streams().values():
        decided = {}
        for event in stream:
            if event.kind not in (*OPENS, "timed_out"):
                continue
            wait = (event.run, event.channel, event.ordinal)
            if wait in decided and event.deadline_at != decided[wait]:
                yield at(event, expected=f"the deadline {decided[wait]}", found=f"{event.deadline_at}")
            elif event.kind == "snoozed" or event.deadline_at is not None:
                decided[wait] = event.deadline_at


def deadlines_are_what_was_asked_for(history):
    """They count from the first snooze, or from the beginning of a wait that fits in its window (W6)."""
    for job_id, stream in history.streams().items():
        script = history.scripts.get(job_id)
        if script is None:
            continue
        decided = set()
        for event in stream:
            wait = (event.run, event.channel, event.ordinal)
            if event.kind not in OPENS or wait in decided:
                continue
            steps = [step for step in script if step.channel == (event.channel or "")]
            if event.ordinal > len(steps):
                yield at(event, expected=f"at most {len(steps)} awaits on the channel", found=f"await {event.ordinal}")
                continue
            step = steps[event.ordinal - 1]
            if event.kind == "snoozed":
                decided.add(wait)
                expected = None if step.wait_for is None else event.recorded_at + timedelta(seconds=step.wait_for)
            elif step.wait_for is not None and step.wait_for <= step.window:
                decided.add(wait)
                expected = event.recorded_at + timedelta(seconds=step.wait_for)
            else:
                expected = None
            if event.deadline_at != expected:
                yield at(event, expected=f"the deadline {expected}", found=f"{event.deadline_at}")


def runs_of(stream, saw):
    """The run that an execution belongs to, as far as the log tells it."""
    for event in stream:
        if event.execution == saw.execution:
            return [event.run]
    # It replayed only. It may have been stopped before it wrote down what it saw, and its run have ended meanwhile.
    ended = [event.run for event in stream if event.kind == "closed" and event.recorded_at < saw.seen_at]
    return [max(ended, default=0) + 1, max(ended, default=0)]
