"""What the ledger answers, as rows for `views`."""

from collections.abc import Mapping
from dataclasses import asdict, fields

from signal_ledger.errors import PayloadError
from signal_ledger.events import Kind
from signal_ledger.names import public_channel
from signal_ledger.outbox import StoredSignal
from signal_ledger.ports import WaitingJob
from signal_ledger.receipt import Receipt
from signal_ledger.recorded import RecordedEvent
from signal_ledger.stats import Stats
from signal_ledger.steps import SeenStep
from signal_ledger.verify import Report
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.cli.payloads import to_json
from signal_ledger_adapters.cli.views import EVENTS, Row

_EVENT_KEYS = tuple(field.key for field in EVENTS.fields if not field.key.startswith("payload"))


def of_receipt(receipt: Receipt) -> Row:
    """Return the row of a receipt."""
    return asdict(receipt)


def of_wait(wait: WaitingJob) -> Row:
    """Return the row of a job that waits."""
    return asdict(wait)


def of_stored(stored: StoredSignal) -> Row:
    """Return the row of a signal in the outbox."""
    return asdict(stored)


def of_event(recorded: RecordedEvent, *, payloads: bool) -> Row:
    """Return the row of an event."""
    row = {key: getattr(recorded, key, None) for key in _EVENT_KEYS}
    if recorded.plan is not None:
        row["plan"] = {field.name: getattr(recorded.plan, field.name) for field in fields(recorded.plan)}
    row["payload_digest"] = getattr(recorded.event, "payload_digest", None)
    return row | (of_payload(recorded) if payloads else {})


def of_payload(recorded: RecordedEvent) -> Row:
    """Return what was sent; nothing, if the event is no delivery."""
    if recorded.kind is not Kind.DELIVERED:
        return {}
    try:
        return {"payload": to_json(recorded.payload)}
    except PayloadError as error:
        return {"payload_error": str(error)}


def of_state(state: WaitState) -> Row:
    """Return the row of a wait state."""
    return {
        "job_id": state.job_id,
        "run": state.run,
        "version": state.version,
        "recorded_at": state.recorded_at,
        "status": state.status,
        "channel": state.channel,
        "ordinal": state.ordinal,
        "deadline_at": state.deadline_at,
        "execution": state.execution,
        "pending": by_channel(state.pending),
        "waits": [{**asdict(wait), "channel": public_channel(wait.channel)} for wait in state.waits],
        "provisional": state.provisional,
    }


def of_report(report: Report) -> Row:
    """Return the row of a report of `verify`."""
    return {
        "ok": report.ok,
        "events": report.events,
        "streams": report.streams,
        "found": report.found,
        "findings": [asdict(finding) for finding in report.findings],
    }


def of_stats(stats: Stats) -> Row:
    """Return the row of what was counted."""
    return {
        **asdict(stats),
        "open_waits": by_channel(stats.open_waits),
        "delivered": {outcome.value: count for outcome, count in sorted(stats.delivered.items())},
    }


def of_step(one: SeenStep) -> Row:
    """Return the row of a step."""
    return {
        "name": one.name,
        "job_id": one.step.job_id,
        "state": one.state,
        "deps": list(one.step.plan.deps),
        "open_deps": list(one.open_deps),
    }


def by_channel(counts: Mapping[str | None, int]) -> dict[str, int]:
    """Return numbers by channel as JSON can have them: "" is the default channel."""
    return {channel or "": count for channel, count in counts.items()}
