"""The doctor on PostgreSQL: work that is stuck."""

from signal_ledger_adapters.doctor.check import Check, finding, note, ok, told_names, told_span
from signal_ledger_adapters.doctor.visit import Visit
from signal_ledger_adapters.doctor.work import LATE_S, told_engines, told_outbox, told_overdue, told_repairs

PRODUCER_S = 60.0
"""Oban refreshes the row of a producer every 15 s, and takes it for dead after a minute."""

# What could not be made up for is put off: then its time is yet to come.
_REPAIRS = """
SELECT count(*), min(r.job_id),
       coalesce(extract(epoch FROM clock_timestamp() - min(r.noted_at)), 0)::float8
FROM ledger.repairs AS r
"""

_OUTBOX = """
SELECT count(*) FILTER (WHERE o.refusal IS NULL AND o.stored_at < clock_timestamp() - make_interval(secs => $1)),
       coalesce(extract(epoch FROM clock_timestamp() - min(o.stored_at) FILTER (WHERE o.refusal IS NULL)), 0)::float8,
       count(o.refusal)
FROM ledger.outbox AS o
"""

# By its index on deadlines.
_OVERDUE = """
SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(w.deadline_at)), 0)::float8
FROM ledger.waits AS w
WHERE w.since IS NOT NULL AND w.deadline_at IS NOT NULL
  AND w.deadline_at < clock_timestamp() - make_interval(secs => $1)
"""

# Without what it runs: a statement may hold a payload.
_TRANSACTIONS = """
SELECT * FROM (
    SELECT format('the session %s of %s (%s) in database %s', a.pid, a.usename, coalesce(nullif(a.application_name, ''),
                  'no application_name'), a.datname) AS who,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age_s
    FROM pg_stat_activity AS a
    WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
    UNION ALL
    SELECT format('the prepared transaction %L of %s in database %s', p.gid, p.owner, p.database),
           extract(epoch FROM clock_timestamp() - p.prepared)::float8
    FROM pg_prepared_xacts AS p
) AS running
WHERE running.age_s > $1
ORDER BY running.age_s DESC
"""

_SEES_ALL = "SELECT pg_has_role('pg_read_all_stats', 'USAGE')"

_PRODUCERS = """
SELECT p.node::text, p.queue::text FROM oban.oban_producers AS p
WHERE p.updated_at > timezone('UTC', clock_timestamp()) - make_interval(secs => $1)
ORDER BY 1, 2
"""

_LEADERS = "SELECT l.node::text FROM oban.oban_leaders AS l WHERE l.expires_at > timezone('UTC', clock_timestamp())"

_HAS_WORK = """
SELECT EXISTS (SELECT FROM ledger.waits AS w WHERE w.since IS NOT NULL)
    OR EXISTS (SELECT FROM ledger.outbox AS o WHERE o.refusal IS NULL)
    OR EXISTS (SELECT FROM oban.oban_jobs AS j WHERE j.state IN ('available', 'scheduled', 'retryable', 'executing'))
"""


async def check_repairs(visit: Visit) -> Check:
    """Check that no end of a run is missing in the log."""
    return told_repairs(*await visit.driver.fetchrow(visit.sql(_REPAIRS)))


async def check_outbox(visit: Visit) -> Check:
    """Check that stored signals are relayed."""
    return told_outbox(*await visit.driver.fetchrow(visit.sql(_OUTBOX), LATE_S))


async def check_waits(visit: Visit) -> Check:
    """Check that waits end by their deadlines."""
    return told_overdue(*await visit.driver.fetchrow(visit.sql(_OVERDUE), LATE_S))


async def check_transactions(visit: Visit) -> Check:
    """Check that no transaction which writes holds back those who read the log."""
    rows = await visit.driver.fetch(_TRANSACTIONS, LATE_S)
    if rows:
        more = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
        return finding(
            "transactions",
            f"expected transactions that write to end soon, but {rows[0]['who']} has written for "
            f"{told_span(rows[0]['age_s'])}{more}: events() and follow() do not go past it, in whatever database it is",
            "have it committed or rolled back; pg_terminate_backend, or ROLLBACK PREPARED, ends it",
        )
    if not await visit.driver.fetchval(_SEES_ALL):
        return note(
            "transactions",
            "no transaction of this role has written for long; those of others are not shown to it",
            "grant pg_read_all_stats to this role to see them",
        )
    return ok("transactions", f"no transaction has written for longer than {told_span(LATE_S)}")


async def check_engines(visit: Visit) -> Check:
    """Check whether an Oban runs, if there is anything to do for one. Nothing tells whether a ledger is attached."""
    producers = await visit.driver.fetch(visit.sql(_PRODUCERS), PRODUCER_S)
    queues = sorted({queue for _, queue in producers})
    nodes = sorted({node for node, _ in producers} | {node for [node] in await visit.driver.fetch(visit.sql(_LEADERS))})
    told = f"Oban runs on {told_names(nodes)}, with {told_names(queues) or 'no queues'}" if nodes else None
    return told_engines(told, has_work=await visit.driver.fetchval(visit.sql(_HAS_WORK)))
