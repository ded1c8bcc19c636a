"""The doctor on what lies in a SQLite file: work that is stuck, and clocks that do not agree."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from signal_ledger.instants import from_text, to_text
from signal_ledger_adapters.doctor.check import Check, finding, note, ok, told_span
from signal_ledger_adapters.doctor.work import LATE_S, told_engines, told_outbox, told_overdue, told_repairs
from signal_ledger_adapters.sqlite import nodes

AHEAD_S = 1.0
"""How far clocks may differ."""

_NODES_MAX = 1000

_NEWEST = """
SELECT max(recorded_at) FROM (
    SELECT max(recorded_at) AS recorded_at FROM (
        SELECT recorded_at FROM signal_ledger_events ORDER BY position DESC LIMIT 256)
    UNION ALL
    SELECT max(peak) FROM signal_ledger_blocks)
"""

_REPAIRS = "SELECT count(*), min(job_id), min(noted_at) FROM signal_ledger_repairs"

_OUTBOX = """
SELECT count(*) FILTER (WHERE refusal IS NULL AND stored_at < ?), min(stored_at) FILTER (WHERE refusal IS NULL),
       count(refusal)
FROM signal_ledger_outbox
"""

# By its index on deadlines.
_OVERDUE = """
SELECT count(*), min(deadline_at) FROM signal_ledger_waits
WHERE (status = 'live' OR status = 'snoozed') AND deadline_at IS NOT NULL AND deadline_at < ?
"""

_NODES = "SELECT id FROM signal_ledger_nodes ORDER BY id DESC LIMIT ?"

# Each by an index of its own.
_HAS_WORK = """
SELECT EXISTS (SELECT 1 FROM signal_ledger_waits WHERE status = 'live' OR status = 'snoozed')
    OR EXISTS (SELECT 1 FROM signal_ledger_outbox WHERE refusal IS NULL)
    OR EXISTS (SELECT 1 FROM oban_jobs WHERE state = 'available')
    OR EXISTS (SELECT 1 FROM oban_jobs WHERE state = 'scheduled' OR state = 'retryable')
    OR EXISTS (SELECT 1 FROM oban_jobs WHERE state = 'executing')
"""


def check_clock(connection: sqlite3.Connection) -> Check:
    """Check that nothing was recorded later than now."""
    [newest] = connection.execute(_NEWEST).fetchone()
    ahead_s = -_age_s(newest)
    if ahead_s > AHEAD_S:
        return finding(
            "clock",
            f"expected no event to be recorded later than now, but the latest is {told_span(ahead_s)} ahead of this "
            "clock: it was set back, or a process that writes has another one",
            "have the clock set by NTP: deadlines go by it. Streams stay in order whatever it shows",
        )
    return ok("clock", "no event is recorded later than now")


def check_repairs(connection: sqlite3.Connection) -> Check:
    """Check that no end of a run is missing in the log."""
    count, job_id, noted_at = connection.execute(_REPAIRS).fetchone()
    return told_repairs(count, job_id, _age_s(noted_at))


def check_outbox(connection: sqlite3.Connection) -> Check:
    """Check that stored signals are relayed."""
    late, stored_at, refused = connection.execute(_OUTBOX, (_late(),)).fetchone()
    return told_outbox(late, _age_s(stored_at), refused)


def check_waits(connection: sqlite3.Connection) -> Check:
    """Check that waits end by their deadlines."""
    count, deadline_at = connection.execute(_OVERDUE, (_late(),)).fetchone()
    return told_overdue(count, _age_s(deadline_at))


def check_engines(path: Path, connection: sqlite3.Connection) -> Check:
    """Check whether an engine runs, if there is anything to do for one."""
    ids = [node for [node] in connection.execute(_NODES, (_NODES_MAX,))]
    # Looked at only where the file of their locks is there: it would be made else.
    locks = path.with_name(f"{path.name}-nodes")
    try:
        running = [node for node in ids if locks.exists() and not nodes.is_gone(path, node)]
    except PermissionError:
        return note(
            "engines",
            f"whether an engine runs cannot be told: this user may not open {locks}",
            "ask as the user whom the file belongs to",
        )
    [has_work] = connection.execute(_HAS_WORK).fetchone()
    told = f"engines that run on this file: {len(running)}" if running else None
    return told_engines(told, has_work=bool(has_work))


def _late() -> str:
    return to_text(datetime.now(UTC) - timedelta(seconds=LATE_S))


def _age_s(instant: str | None) -> float:
    """Return how long ago an instant was, as a column has it; 0 if there is none."""
    return 0.0 if instant is None else (datetime.now(UTC) - from_text(instant)).total_seconds()
