"""What can be listened to: the events of this library, by name."""

SIGNAL = "signal_ledger.signal"
"""The prefix of a span: one call of `signal`."""

EXECUTION = "signal_ledger.execution"
"""The prefix of a span: one execution of a job's `process`."""

SIGNAL_RETRY = "signal_ledger.signal.retry"
DELIVERED = "signal_ledger.delivered"
AWAITED = "signal_ledger.awaited"
SNOOZED = "signal_ledger.snoozed"
CONSUMED = "signal_ledger.consumed"
TIMED_OUT = "signal_ledger.timed_out"
BATCH_STOP = "signal_ledger.batch.stop"
BATCH_RETRY = "signal_ledger.batch.retry"
RELAYED = "signal_ledger.relayed"
REPAIRED = "signal_ledger.repaired"

SPANS = (SIGNAL, EXECUTION)

EVENTS: tuple[str, ...] = (
    "signal_ledger.signal.start",
    "signal_ledger.signal.stop",
    "signal_ledger.signal.exception",
    SIGNAL_RETRY,
    DELIVERED,
    AWAITED,
    SNOOZED,
    CONSUMED,
    TIMED_OUT,
    "signal_ledger.execution.start",
    "signal_ledger.execution.stop",
    "signal_ledger.execution.exception",
    BATCH_STOP,
    BATCH_RETRY,
    RELAYED,
    REPAIRED,
)
"""All events, by name; `docs/reference/telemetry.md` tells what each carries."""
