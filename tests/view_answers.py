"""What the views of a SQLite file should show: the same as the library's own answers, computed event by event."""

import re
import sqlite3
from collections import Counter
from datetime import datetime

from signal_ledger.instants import to_text
from signal_ledger.workflow_status import status_of
from signal_ledger_adapters.timeline import timeline

PREFIX = "signal_ledger_view_"

# A change here is a change of what other people's queries stand on: see docs/reference/sqlite-views.md. Columns may be
# added at the end of a view.
VIEWS = {
    "waiting": "job_id worker queue workflow_id step status channel since deadline_at waited_s overdue run ordinal",
    "timeline": (
        "job_id version recorded_at kind what source channel run execution attempt ordinal deadline_at outcome cause "
        "key signal_id payload_bytes payload_digest position"
    ),
    "signals": (
        "job_id version delivered_at source channel outcome fate consumed_at latency_s run ordinal key signal_id "
        "payload_bytes payload_digest position"
    ),
    "inboxes": "job_id worker queue status channel pending oldest_at run",
    "waits": (
        "job_id worker queue run channel ordinal outcome began_at deadline_at ended_at waited_s source signal_id "
        "delivered_at position"
    ),
    "runs": "job_id worker queue run status cause began_at ended_at duration_s attempt events position",
    "workflows": (
        "workflow_id workflow_name state steps unfinished completed cancelled discarded deleted started_at ended_at "
        "duration_s"
    ),
    "steps": "workflow_id workflow_name step job_id worker queue state deps held_for planned_at ended_at ended_as",
    "outbox": (
        "job_id worker queue stored_at state refusal source channel key signal_id payload_bytes payload_digest place"
    ),
}

BEGINS = {"awaited", "snoozed"}
OUTCOMES = {"consumed", "timed_out"}


def rows_of(path, view, where="1"):
    """Return the rows of a view, each as a dict, without what depends on the present time."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(f"SELECT * FROM {PREFIX}{view} WHERE {where}")]
    finally:
        connection.close()


async def check_views(path, ledger):
    """Compare each view with the library's answers; return how often each case was met."""
    met = Counter()
    histories = {job_id: await ledger.history(job_id) for job_id in _job_ids(path, "signal_ledger_events")}
    states = {job_id: await ledger.state(job_id) for job_id in histories}
    _same(met, path, "timeline", [row for history in histories.values() for row in _timeline(history)])
    _same(met, path, "signals", [row for history in histories.values() for row in _signals(history)])
    _same(met, path, "waits", [row for history in histories.values() for row in _waits(history)])
    _same(met, path, "runs", [row for job_id, history in histories.items() for row in _runs(history, states[job_id])])
    _same(met, path, "inboxes", [row for job_id, each in histories.items() for row in _inboxes(each, states[job_id])])
    _same(met, path, "waiting", [_waiting(wait) for wait in await ledger.waiting(limit=10_000)])
    _same(met, path, "outbox", [_stored(stored) for stored in await ledger.outbox(limit=10_000)])
    for workflow_id in _job_ids(path, "signal_ledger_steps", "workflow_id"):
        seen = await ledger.steps(workflow_id)
        _same(met, path, "steps", [_step(one) for one in seen], f"workflow_id = '{workflow_id}'")
        _same(met, path, "workflows", [_workflow(seen)], f"workflow_id = '{workflow_id}'")
    return met


def _job_ids(path, table, column="job_id"):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return [row[0] for row in connection.execute(f"SELECT DISTINCT {column} FROM {table} ORDER BY 1")]
    finally:
        connection.close()


def _same(met, path, view, expected, where="1"):
    """The view has exactly these rows, as far as they tell; and durations that fit the instants beside them."""
    found = rows_of(path, view, where)
    for row in found:
        _check_durations(row)
        met[view] += 1
        met.update(f"{view}: {row[column]}" for column in ("fate", "outcome", "state", "kind") if column in row)
    columns = expected[0].keys() if expected else ()
    told = [{column: row[column] for column in columns} for row in found]
    assert len(found) == len(expected), (view, found, expected)
    assert sorted(told, key=_place) == sorted(expected, key=_place), view


def _place(row):
    return [(value is not None, str(value)) for value in row.values()]


def _check_durations(row):
    spans = [
        ("latency_s", "delivered_at", "consumed_at"),
        ("waited_s", "began_at", "ended_at"),
        ("duration_s", "began_at", "ended_at"),
        ("duration_s", "started_at", "ended_at"),
    ]
    for column, begin, end in spans:
        if row.keys() >= {column, begin, end} and row[end] is not None:
            if row[begin] is None:
                assert row[column] is None
            else:
                seconds = (datetime.fromisoformat(row[end]) - datetime.fromisoformat(row[begin])).total_seconds()
                # SQLite counts in milliseconds.
                assert abs(row[column] - seconds) <= 0.0011, row


def _text(instant):
    return None if instant is None else to_text(instant)


def _stored_channel(channel):
    return "" if channel is None else channel


def _timeline(history):
    tokens = sorted({recorded.execution for recorded in history if recorded.execution} - {0})
    for recorded, line in zip(history, timeline(history, dated=True), strict=True):
        told = line.partition(recorded.kind)[2].strip()
        # Lines for a terminal count those executions that left events; a view has their tokens.
        told = re.sub(r"execution (\d+)", lambda number: f"execution {tokens[int(number[1]) - 1]}", told)
        event = recorded.event
        payload = getattr(event, "payload", None)
        yield {
            "job_id": recorded.job_id,
            "version": recorded.version,
            "recorded_at": _text(recorded.recorded_at),
            "kind": recorded.kind,
            "what": told,
            "source": recorded.source,
            "channel": getattr(event, "channel", None),
            "run": recorded.run,
            "execution": recorded.execution,
            "attempt": recorded.attempt,
            "ordinal": recorded.ordinal,
            "deadline_at": _text(recorded.deadline_at),
            "outcome": recorded.outcome,
            "cause": recorded.cause,
            "key": recorded.key,
            "signal_id": recorded.signal_id,
            "payload_bytes": None if payload is None else len(payload),
            "payload_digest": getattr(event, "payload_digest", None),
            "position": recorded.position,
        }


def _signals(history):
    consumed = {recorded.signal_id: recorded for recorded in history if recorded.kind == "consumed"}
    closed = {recorded.run for recorded in history if recorded.kind == "closed"}
    for recorded in history:
        if recorded.kind == "delivered":
            taken = consumed.get(recorded.signal_id)
            fate = "consumed" if taken else "ended" if recorded.run in closed else "pending"
            yield {
                "job_id": recorded.job_id,
                "version": recorded.version,
                "delivered_at": _text(recorded.recorded_at),
                "source": recorded.source,
                "channel": recorded.event.channel,
                "outcome": recorded.outcome,
                "fate": fate,
                "consumed_at": _text(taken and taken.recorded_at),
                "run": recorded.run,
                "ordinal": taken and taken.ordinal,
                "key": recorded.key,
                "signal_id": recorded.signal_id,
                "payload_bytes": len(recorded.event.payload),
                "payload_digest": recorded.event.payload_digest,
                "position": recorded.position,
            }


def _waits(history):
    """Follow the stream: which waits are open, and how each ends."""
    delivered = {recorded.version: recorded for recorded in history if recorded.kind == "delivered"}
    waits = {}
    for recorded in history:
        if recorded.kind in BEGINS | OUTCOMES:
            wait = waits.setdefault(
                (recorded.run, recorded.event.channel, recorded.ordinal),
                {
                    "job_id": recorded.job_id,
                    "run": recorded.run,
                    "channel": recorded.event.channel,
                    "ordinal": recorded.ordinal,
                    "outcome": "open",
                    "began_at": _text(recorded.recorded_at) if recorded.kind in BEGINS else None,
                    "deadline_at": None,
                    "ended_at": None,
                    "source": None,
                    "signal_id": None,
                    "delivered_at": None,
                    "position": None,
                },
            )
            if recorded.kind != "consumed":
                wait["deadline_at"] = _text(recorded.deadline_at)
        ended = [wait] if recorded.kind in OUTCOMES else []
        if recorded.kind == "closed":
            ended = [one for one in waits.values() if one["outcome"] == "open"]
        for one in ended:
            one["outcome"] = "ended" if recorded.kind == "closed" else recorded.kind
            one["ended_at"], one["position"] = _text(recorded.recorded_at), recorded.position
        if recorded.kind == "consumed":
            signal = delivered[recorded.event.delivery_version]
            wait["source"], wait["signal_id"] = signal.source, signal.signal_id
            wait["delivered_at"] = _text(signal.recorded_at)
    return list(waits.values())


def _runs(history, state):
    runs = {}
    for recorded in history:
        runs.setdefault(recorded.run, []).append(recorded)
    for run, events in runs.items():
        last = events[-1] if events[-1].kind == "closed" else None
        assert last is not None or run == state.run
        yield {
            "job_id": state.job_id,
            "run": run,
            "status": "closed" if last else state.status,
            "cause": last and last.cause,
            "began_at": _text(events[0].recorded_at),
            "ended_at": _text(last and last.recorded_at),
            "attempt": last and last.attempt,
            "events": len(events),
            "position": last and last.position,
        }


def _inboxes(history, state):
    pending = [row for row in _signals(history) if row["fate"] == "pending"]
    for channel, count in state.pending.items():
        stored = _stored_channel(channel)
        waiting = [row for row in pending if row["channel"] == stored]
        assert len(waiting) == count
        yield {
            "job_id": state.job_id,
            "status": state.status,
            "channel": stored,
            "pending": count,
            "oldest_at": waiting[0]["delivered_at"],
            "run": state.run,
        }


def _waiting(wait):
    return {
        "job_id": wait.job_id,
        "status": wait.status,
        "channel": _stored_channel(wait.channel),
        "since": _text(wait.since),
        "deadline_at": _text(wait.deadline_at),
        "run": wait.run,
        "ordinal": wait.ordinal,
    }


def _stored(stored):
    return {
        "job_id": stored.job_id,
        "stored_at": _text(stored.stored_at),
        "state": "pending" if stored.refusal is None else "refused",
        "refusal": stored.refusal,
        "source": stored.source,
        "channel": _stored_channel(stored.channel),
        "key": stored.key,
        "signal_id": stored.signal_id,
    }


def _step(one):
    plan = one.step.plan
    return {
        "workflow_id": plan.workflow_id,
        "workflow_name": plan.workflow_name,
        "step": one.name,
        "job_id": one.step.job_id,
        "state": one.state,
        "deps": _array(plan.deps),
        "held_for": _array(one.open_deps if one.state == "suspended" else ()),
        "planned_at": _text(one.step.planned_at),
        "ended_at": _text(one.step.ended_at),
        "ended_as": one.step.ended_as,
    }


def _array(names):
    return "[" + ",".join(f'"{name}"' for name in names) + "]"


def _workflow(seen):
    status = status_of(seen, seen[0].step.planned_at)
    ends = Counter(one.step.ended_as for one in seen)
    return {
        "workflow_id": status.id,
        "workflow_name": status.name,
        "state": status.state,
        "steps": status.total,
        "unfinished": ends[None],
        "completed": ends["completed"],
        "cancelled": ends["cancelled"],
        "discarded": ends["discarded"],
        "deleted": ends["deleted"],
        "started_at": _text(status.started_at),
        "ended_at": _text(status.ended_at),
    }
