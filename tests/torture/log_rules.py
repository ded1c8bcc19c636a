"""Rules about the log itself, and its projection."""

from collections import defaultdict
from itertools import pairwise

from signal_ledger.evolve import evolve
from signal_ledger.wait_state import Status, WaitState
from tests.torture.findings import Finding, at
from tests.torture.history import mark_of


def streams_have_no_gaps_and_time_never_runs_backwards(history):
    """Versions count from one, in the order of the log (L1, W7)."""
    last = {}
    for event in history.log:
        before = last.get(event.job_id)
        expected = 1 if before is None else before.version + 1
        if event.version != expected:
            yield at(event, expected=f"version {expected} next", found=f"version {event.version}")
        if before is not None and event.recorded_at < before.recorded_at:
            yield at(event, expected=f"a time from {before.recorded_at}", found=f"{event.recorded_at}")
        last[event.job_id] = event


def no_older_execution_writes(history):
    """In a stream no execution writes once one that began later has written, nor once any other has (W13).

    Tokens tell executions apart, but not their order: on Oban they are the times at which transactions began.
    """
    for stream in history.streams().values():
        current, over, newest = None, set(), 0
        for event in stream:
            if event.execution is None:
                continue
            began = history.began.get((event.job_id, event.execution), newest)
            if event.execution in over or began < newest:
                yield at(event, expected="no write by an older execution", found=f"execution {event.execution}")
            if current not in (None, event.execution):
                over.add(current)
            current, newest = event.execution, max(newest, began)


def each_snapshot_is_a_prefix_of_the_next(history):
    """The log only grows, at its end (L1, L4)."""
    whole = [mark_of(event) for event in history.log]
    for before, after in pairwise([*history.snapshots, whole]):
        for place, mark in enumerate(before):
            there = after[place] if place < len(after) else "the end of the log"
            if there != mark:
                yield Finding(job_id=mark[0], version=mark[1], expected=f"{mark} at place {place}", found=f"{there}")
                break


def the_run_was_watched(history):
    """The log was read at least twice on the way, and the projection now and then: else two rules prove nothing."""
    for what, seen, wanted in (
        ("snapshots of the log", [snapshot for snapshot in history.snapshots if snapshot], 2),
        ("samples of the projection", [sample for sample in history.samples if sample.version], 1),
    ):
        if len(seen) < wanted:
            yield Finding(expected=f"at least {wanted} {what}, not empty", found=f"{len(seen)}")


def a_follower_misses_nothing(history):
    """What a follower got, page by page while the log grew, is the log (L4)."""
    whole = [mark_of(event) for event in history.log]
    followed = history.followed
    for place, mark in enumerate(whole):
        there = followed[place] if place < len(followed) else "the end"
        if there != mark:
            expected = f"{mark} at place {place}, as in the log"
            yield Finding(job_id=mark[0], version=mark[1], expected=expected, found=f"{there}")
            return
    if len(followed) > len(whole):
        mark = followed[len(whole)]
        yield Finding(job_id=mark[0], version=mark[1], expected="the end of the log", found=f"{mark}")


def the_projection_is_the_fold_of_the_log(history):
    """At the end, and of the prefix that each state that was read on the way tells of (L3)."""
    wanted = defaultdict(list)
    for sample in history.samples:
        wanted[sample.job_id].append(sample)
    for job_id, state in history.states.items():
        wanted[job_id].append(state)
    for job_id, stream in history.streams().items():
        folds = folds_of(job_id, stream)
        final = history.states.get(job_id)
        if final is None or final.version != len(stream):
            found = "none" if final is None else f"one of version {final.version}"
            yield Finding(job_id=job_id, expected=f"a state of version {len(stream)}", found=found)
        for state in wanted[job_id]:
            expected = folds[state.version] if state.version < len(folds) else None
            if state != expected:
                yield Finding(job_id=job_id, version=state.version, expected=f"{expected}", found=f"{state}")


def outcomes_of_deliveries_fit_the_wait(history):
    """Woken: it slept on that channel, and its deadline had not passed. Live: it waited live for it (D5, W5)."""
    for job_id, stream in history.streams().items():
        state = WaitState(job_id=job_id)
        for event in stream:
            if event.kind == "delivered" and event.outcome != "buffered":
                status = Status.SNOOZED if event.outcome == "woken" else Status.LIVE
                wait = state.wait
                is_in_time = wait is not None and (wait.deadline_at is None or event.recorded_at <= wait.deadline_at)
                if state.status is not status or state.channel != event.channel or not is_in_time:
                    yield at(event, expected=f"{event.outcome} only if {status.value} on it", found=f"{state}")
            state = evolve(state, event.event, version=event.version, recorded_at=event.recorded_at)


def the_librarys_own_verify_agrees(history):
    """`ledger.verify()` finds nothing either."""
    for found in history.verified:
        yield Finding(expected="nothing", found=found)


def folds_of(job_id, stream):
    """The states after none, one, two … events of a stream."""
    folds = [WaitState(job_id=job_id)]
    for event in stream:
        folds.append(evolve(folds[-1], event.event, version=event.version, recorded_at=event.recorded_at))
    return folds
