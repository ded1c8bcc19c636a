"""What there is to say of work that is stuck, whatever database it lies in."""

from signal_ledger_adapters.doctor.check import Check, are, finding, note, ok, told_span

LATE_S = 60.0
"""How long a stored signal may stay in the outbox, and a wait be overdue."""

REPAIR_S = 10.0
"""How long an end of a run may be missing in the log: an engine makes up for it within a second."""

_RUN_ONE = "start the application, whose engine is lite(url), or attach(oban) on PostgreSQL"


def told_repairs(count: int, job_id: int, age_s: float) -> Check:
    """Say what there is to say of ends of runs that are missing in the log.

    Args:
        count: How many.
        job_id: One of the jobs.
        age_s: For how long the oldest has been missing; below zero if it could not be made up for, and is tried again.
    """
    if not count:
        return ok("repairs", "no end of a run is missing in the log")
    told = f"expected every end of a run in the log, but {count} {are(count)} missing, job {job_id}'s among them"
    if 0 <= age_s < REPAIR_S:
        return note("repairs", told, "look again in a moment: an engine makes up for it")
    return finding("repairs", told, "run an engine: it makes up for it within a second, or its log says why it cannot")


def told_outbox(late: int, oldest_s: float, refused: int) -> Check:
    """Say what there is to say of the outbox.

    Args:
        late: How many signals wait for too long.
        oldest_s: For how long the oldest of them has waited.
        refused: How many were refused.
    """
    if late:
        return finding(
            "outbox",
            f"expected stored signals to be relayed within seconds, but {late} {are(late, 'waits', 'wait')} for longer "
            f"than {told_span(LATE_S)}, the oldest for {told_span(oldest_s)}",
            "run an engine: open_ledger alone relays nothing. If one runs, its log says what is in the way",
        )
    if refused:
        return note(
            "outbox",
            f"of the stored signals {refused} {are(refused, 'was', 'were')} refused at relay",
            "`signal-ledger outbox` has them, and says why: the job had ended, or the key was another signal's",
        )
    return ok("outbox", f"no stored signal waits for longer than {told_span(LATE_S)}, and none was refused")


def told_overdue(count: int, first_s: float) -> Check:
    """Say what there is to say of waits that are overdue.

    Args:
        count: How many are, for too long.
        first_s: How long the first of them is overdue.
    """
    if not count:
        return ok("waits", f"no wait is overdue by more than {told_span(LATE_S)}")
    return finding(
        "waits",
        f"expected waits to end by their deadlines, but {count} {are(count)} overdue by more than {told_span(LATE_S)}, "
        f"the first by {told_span(first_s)}",
        "run their queues, or give them more slots; `signal-ledger waiting --deadline-before 0s` lists them. Their "
        "outcomes are decided already: a signal that came in time is still consumed",
    )


def told_engines(running: str | None, *, has_work: bool) -> Check:
    """Say what there is to say of engines.

    Args:
        running: Those that run; None if none does.
        has_work: Whether there is anything to do for one.
    """
    if running is not None:
        return ok("engines", running)
    if has_work:
        return finding("engines", "expected an engine to run, since there are jobs or signals, but none does", _RUN_ONE)
    return note("engines", "no engine runs, and there is nothing to do for one")
