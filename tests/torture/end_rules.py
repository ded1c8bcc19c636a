"""Rules about what is left when the faults are over and everything has settled."""

from signal_ledger.wait_state import Status
from tests.torture.findings import Finding

ENDED = ("completed", "cancelled", "discarded")


def everything_is_accounted_for(history):
    """Every job has ended, or waits for something that nobody has sent (W5, W7, W10, L3)."""
    streams = history.streams()
    for job_id, state in history.states.items():
        job = history.jobs.get(job_id)
        if job is None or job.state in ENDED:
            yield from _ended(job_id, job, state)
        else:
            yield from _lives(history, job, state, streams.get(job_id, []))
    for job_id, job in history.jobs.items():
        if job_id not in history.states and job.state not in ENDED:
            yield Finding(job_id=job_id, expected="a job that waits or has ended", found=f"{job.state} without events")


def _ended(job_id, job, state):
    """A run that left events is closed with its job."""
    if state.version and state.status is not Status.CLOSED:
        yield Finding(
            job_id=job_id,
            version=state.version,
            expected=f"the run closed, since the job is {'gone' if job is None else job.state}",
            found=f"{state.status.value}",
        )


def _lives(history, job, state, stream):
    """It sleeps, on a channel without a signal that would end the wait, and its deadline is not over."""
    found = None
    wait = state.wait
    oldest = None if wait is None else _oldest_pending(state.inbox_of(wait.channel), stream)
    if job.state != "scheduled" or state.status is not Status.SNOOZED or wait is None:
        found = f"{job.state}, {state.status.value}"
    elif oldest is not None and (wait.deadline_at is None or oldest.recorded_at <= wait.deadline_at):
        found = f"a signal pending in time on the awaited channel {wait.channel!r}, at version {oldest.version}"
    elif wait.deadline_at is not None and wait.deadline_at < history.ended_at:
        found = f"a deadline that has passed at {wait.deadline_at}"
    if found is not None:
        expected = "a job that sleeps on a wait which nothing can end yet"
        yield Finding(job_id=state.job_id, version=state.version, expected=expected, found=found)


def _oldest_pending(inbox, stream):
    """The delivery that an inbox begins with; None if it is empty."""
    if inbox is None:
        return None
    return next(
        (
            event
            for event in stream
            if event.kind == "delivered" and (event.channel or "") == inbox.channel and event.version > inbox.after
        ),
        None,
    )


def completed_jobs_have_followed_their_script(history):
    """A run that completed has had as many outcomes as its script has awaits (W9, W10)."""
    for job_id, stream in history.streams().items():
        script = history.scripts.get(job_id)
        for event in stream:
            if event.kind == "closed" and event.cause == "completed" and script is not None:
                ends = sum(other.run == event.run and other.kind in ("consumed", "timed_out") for other in stream)
                if ends != len(script):
                    yield Finding(
                        job_id=job_id,
                        version=event.version,
                        expected=f"{len(script)} outcomes in run {event.run}, which completed",
                        found=f"{ends}",
                    )


def nothing_is_left_in_the_outbox(history):
    """But what the relay has refused (D8)."""
    for row in history.outbox:
        if row.refusal is None:
            yield Finding(job_id=row.job_id, expected=f"{row.source} relayed or refused", found="it is still stored")


def nothing_leaks(history):
    """No connection, lock, task or waiter is left that should not be."""
    for leak in history.leaks:
        yield Finding(expected="nothing held", found=leak)


def processes_meet_no_errors(history):
    """Workers, clients and operators end as they should."""
    for error in history.errors:
        yield Finding(expected="no such error", found=error)


def every_fault_that_was_played_happened(history):
    """Each time; an operator may find no job that suits."""
    for number, play in enumerate(history.plays, 1):
        if play.times < 1 and not play.may_miss:
            yield Finding(expected=f"{play.kind}, which was fault {number}", found="it did not happen")


def every_kind_of_fault_happened(history):
    """In a run that is long enough: those of the engine, and what operators do."""
    for kind in history.kinds:
        played = [play.times for play in history.plays if play.kind == kind]
        if sum(played) < 1:
            yield Finding(expected=f"{kind}, at least once", found=f"it was played {len(played)} times")
