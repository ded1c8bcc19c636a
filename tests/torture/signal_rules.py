"""Rules that join what clients saw with the deliveries in the log."""

import hashlib
from collections import Counter, defaultdict
from datetime import timedelta

from tests.torture.findings import Finding, at
from tests.torture.history import FOR_EVER

NEW = ("woken", "live", "buffered")
ALIVE = ("scheduled", "executing", "available", "retryable")
NEVER_SENT = ("rolled back", "conflict")
CLOCKS = timedelta(milliseconds=1)
"""How exactly the clocks of the processes and that of the database, all of one machine, are read."""


def acknowledged_signals_are_in_the_log(history):
    """Each receipt names its delivery, with equal bytes, and each one only once (D1, D5)."""
    streams = history.streams()
    for call in history.calls:
        for told in call.receipts:
            if told.outcome in ("ignored", "stored"):
                continue
            stream = streams.get(told.job_id, [])
            event = stream[told.version - 1] if 0 < (told.version or 0) <= len(stream) else None
            if event is None or event.kind != "delivered" or event.signal_id != told.signal_id:
                found = "no such event" if event is None else f"{event.kind} {event.signal_id}"
                yield Finding(
                    job_id=told.job_id,
                    version=told.version,
                    expected=f"delivery {told.signal_id}, acknowledged to {call.id} as {told.outcome}",
                    found=found,
                )
                continue
            yield from _same_content(call, event)
            if told.outcome in NEW and (event.outcome, event.source) != (told.outcome, call.signal):
                expected = f"{told.outcome} from {call.signal}"
                yield at(event, expected=expected, found=f"{event.outcome} from {event.source}")


def stored_signals_are_relayed(history):
    """What was committed with a caller's own changes is delivered, or refused readably (D8)."""
    delivered = _by_source(history)
    keyed = {(event.job_id, event.key) for event in deliveries(history) if event.key is not None}
    left = {(row.job_id, row.source) for row in history.outbox}
    for call in history.calls:
        if call.transaction is None or call.status != "ok":
            continue
        for job_id in set(call.targets):
            is_there = (job_id, call.signal) in delivered or (job_id, call.signal) in left
            if not is_there and (call.key is None or (job_id, call.key) not in keyed):
                yield Finding(
                    job_id=job_id, expected=f"{call.signal}, which was committed, relayed or refused", found="nothing"
                )


def stored_signals_keep_their_order(history):
    """The signals of one transaction to one job are delivered in the order of the calls (D8)."""
    places = {call.signal: call.transaction for call in history.calls if call.transaction is not None}
    for stream in history.streams().values():
        latest = {}
        for event in stream:
            if event.kind != "delivered" or places.get(event.source) is None:
                continue
            transaction, place = places[event.source]
            if place < latest.get(transaction, 0):
                yield at(event, expected=f"a later call than {latest[transaction]}", found=f"call {place}")
            latest[transaction] = max(place, latest.get(transaction, 0))


def nothing_is_in_the_log_that_nobody_sent(history):
    """Each delivery is what some call sent to that job, and was neither refused nor rolled back (D2, D3, D8)."""
    tries = defaultdict(list)
    for call in history.calls:
        tries[call.signal].append(call)
    for event in deliveries(history):
        fitting = [call for call in tries[event.source] if event.job_id in call.targets]
        if not fitting:
            yield at(event, expected="a call that sent it", found=f"none by the name of {event.source}")
            continue
        if all(call.status in NEVER_SENT for call in fitting):
            yield at(event, expected=f"nothing, since {event.source} was {fitting[0].status}", found="a delivery")
        for call in fitting:
            told = [told for told in call.receipts if told.job_id == event.job_id]
            if told and all(told.outcome == "ignored" for told in told):
                yield at(event, expected=f"nothing, since {call.id} was told {told[0].reason}", found="a delivery")
        yield from _same_content(fitting[0], event)


def duplicates_are_told_what_became_of_the_first(history):
    """Pending, consumed or ended with its run: one that was true at some time of the call (D6)."""
    fates = {job_id: _fates(stream) for job_id, stream in history.streams().items()}
    for call in history.calls:
        for told in call.receipts:
            if told.outcome == "duplicate":
                true = [
                    reason
                    for reason, begins_at, ends_at in fates.get(told.job_id, {}).get(told.version, ())
                    if begins_at <= call.answered_at + CLOCKS and (ends_at is None or ends_at >= call.began_at - CLOCKS)
                ]
                if told.reason not in true:
                    expected = f"{call.id} to be told {' or '.join(true) or 'nothing of the kind'}"
                    yield Finding(job_id=told.job_id, version=told.version, expected=expected, found=f"{told.reason}")


def _fates(stream):
    """What was true of each delivery, and from when to when; by its version."""
    delivered = {event.version: event for event in stream if event.kind == "delivered"}
    consumed = {event.delivery_version: event.recorded_at for event in stream if event.kind == "consumed"}
    closed = {event.run: event.recorded_at for event in stream if event.kind == "closed"}
    fates = {}
    for version, event in delivered.items():
        consumed_at, closed_at = consumed.get(version), closed.get(event.run)
        fates[version] = [("pending", event.recorded_at, consumed_at or closed_at)]
        if consumed_at is not None:
            fates[version].append(("consumed", consumed_at, None))
        elif closed_at is not None:
            fates[version].append(("ended with its run", closed_at, None))
    return fates


def lists_are_all_or_nothing(history):
    """A call to several jobs that got no answer reached all that had not ended, or none (D2)."""
    delivered = _by_source(history)
    lasting = _lasting_jobs(history)
    places = {}
    for place, event in enumerate(history.log):
        places.setdefault(event.job_id, place)
        if event.kind == "delivered":
            places.setdefault(event.source, place)
    for call in history.calls:
        if call.status != "unknown" or call.transaction is not None or call.key is not None:
            continue
        # A job without events may have been cancelled, which leaves no trace, and retried later.
        before = places.get(call.signal, 0)
        alive = {job_id for job_id in set(call.targets) & lasting if places[job_id] <= before}
        reached = {job_id for job_id in alive if (job_id, call.signal) in delivered}
        if reached and reached != alive:
            missing = min(alive - reached)
            yield Finding(job_id=missing, expected=f"{call.signal}, as at job {min(reached)}", found="no delivery")


def a_signal_is_delivered_once(history):
    """However often its call is repeated (D6)."""
    seen = Counter()
    for event in deliveries(history):
        seen[event.job_id, event.source] += 1
        seen[event.job_id, event.signal_id] += 1
        if max(seen[event.job_id, event.source], seen[event.job_id, event.signal_id]) > 1:
            yield at(event, expected=f"one delivery of {event.source}", found="another one")


def one_key_is_one_event(history):
    """In a job, for ever (D6)."""
    first = {}
    for event in deliveries(history):
        if event.key is not None and first.setdefault((event.job_id, event.key), event) is not event:
            expected = f"{event.key} at version {first[event.job_id, event.key].version} only"
            yield at(event, expected=expected, found="another delivery of it")


def the_log_keeps_real_time_order(history):
    """A call that ended before another one began, to the same job and channel, is earlier in the log (D4)."""
    calls = defaultdict(list)
    for call in history.calls:
        if call.transaction is None:
            calls[call.signal].append(call)
    latest = {}
    for event in _in_stream_order(history):
        if event.kind != "delivered" or not calls[event.source]:
            continue
        tries = calls[event.source]
        began = min(call.began for call in tries)
        # Of several tries it is not known which one stored it: it was there when the first one was acknowledged.
        ended = min((call.ended for call in tries if call.status == "ok"), default=FOR_EVER)
        place = (event.job_id, event.channel)
        if place in latest and ended < latest[place][0]:
            expected = f"a place before {latest[place][1]}, which began after {event.source} had ended"
            yield at(event, expected=expected, found="one behind it")
        if place not in latest or began > latest[place][0]:
            latest[place] = (began, event.source)


def a_living_job_ignores_nothing(history):
    """Once a job has got a signal, it ignores none before its run ends (D3)."""
    lasting = _lasting_jobs(history)
    got = {}
    for call in history.calls:
        for told in call.receipts:
            if told.outcome in NEW:
                got[told.job_id] = min(got.get(told.job_id, FOR_EVER), call.ended)
    for call in history.calls:
        for told in call.receipts:
            if told.outcome == "ignored" and told.job_id in lasting and got.get(told.job_id, FOR_EVER) < call.began:
                expected = f"{call.signal} delivered, since the job has not ended"
                yield Finding(job_id=told.job_id, expected=expected, found=f"ignored: {told.reason}")


def calls_end_in_time(history, *, slack_s=0.1):
    """With an answer or without, a call ends within its timeout and a fifth, and while its process stood still (D6)."""
    for call in direct_calls(history, "ok", "unknown"):
        if call.took_s > call.timeout_s * 1.2 + call.lagged_s + slack_s:
            expected = f"{call.id} to end within {call.timeout_s} s, and {call.lagged_s:.2f} s that its process lost"
            yield Finding(expected=expected, found=f"{call.status} after {call.took_s:.2f} s")


def clients_meet_only_errors_that_are_told(history):
    """`signal` raises what its contract names, and nothing else."""
    for call in history.calls:
        if call.status == "error" or (call.status == "conflict" and call.error is not None):
            yield Finding(expected=f"{call.id} to end in a receipt, or an error of the contract", found=call.error)


def deliveries(history):
    """All deliveries in the log."""
    return [event for event in history.log if event.kind == "delivered"]


def direct_calls(history, *statuses):
    """The calls that ended in one of these ways, but those with ``conn=``, and those whose process died."""
    return [
        call
        for call in history.calls
        if call.status in statuses and call.transaction is None and call.answered is not None
    ]


def _by_source(history):
    return {(event.job_id, event.source) for event in deliveries(history)}


def _lasting_jobs(history):
    """The jobs with events that are still alive in the end and never ended."""
    ended = {event.job_id for event in history.log if event.kind == "closed"}
    alive = {job_id for job_id, job in history.jobs.items() if job.state in ALIVE}
    return ({event.job_id for event in history.log} & alive) - ended


def _in_stream_order(history):
    for stream in history.streams().values():
        yield from stream


def _same_content(call, event):
    channel = event.channel or ""
    payload = event.event.payload
    bytes_digest = None if payload is None else hashlib.sha256(payload).hexdigest()
    if (channel, event.event.payload_digest) != (call.channel, call.digest):
        yield at(
            event,
            expected=f"channel {call.channel!r} and digest {call.digest} of {call.id}",
            found=f"{channel!r} and {event.event.payload_digest}",
        )
    elif bytes_digest != call.bytes_digest:
        yield at(event, expected=f"the bytes that {call.id} sent", found="other bytes")
