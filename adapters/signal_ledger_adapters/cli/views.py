"""The rows of the commands' answers: their keys, which are an interface, and their columns in tables.

docs/reference/output.md is made from these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

type Row = dict[str, Any]
"""Values by their keys: instants, numbers, text, lists and mappings, None."""


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a row.

    Args:
        key: The key, in JSON and in CSV.
        type: What its values are.
        meaning: What they mean.
        heading: Of its column in tables; None if it has none.
        right: Whether the column is aligned to the right.
        wraps: Whether the column may be folded where the terminal is narrow.
        show: Returns the text of a table's cell, if that is not the value's own.
    """

    key: str
    type: str
    meaning: str
    heading: str | None = None
    right: bool = False
    wraps: bool = False
    show: Callable[[Any], str] | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The rows of an answer.

    Args:
        name: What they are called in the documentation.
        meaning: What a row is.
        fields: The keys, in their order.
    """

    name: str
    meaning: str
    fields: tuple[Field, ...]


def _default_channel(channel: str | None) -> str:
    return "(default)" if channel is None else channel


_JOB = Field("job_id", "integer", "the job", "job", right=True)
_RUN = Field("run", "integer", "the job's run, from 1")
_CHANNEL = Field("channel", "text or null", "the channel; null is the default channel", "channel", wraps=True)
_AWAITED_CHANNEL = Field(
    "channel",
    "text or null",
    "the channel; null is the default channel",
    "channel",
    wraps=True,
    show=_default_channel,
)
_ORDINAL = Field("ordinal", "integer", "which await on the channel within the run, from 1", "await", right=True)
_DEADLINE = Field("deadline_at", "instant or null", "when the wait ends without a signal; null is never", "deadline")
_CURSOR = Field("cursor", "text", "pass it as `--after` to go on behind this row")
_KIND = Field("kind", "text", "which event", "event")
_RECORDED = Field("recorded_at", "instant", "when it was recorded, by the database's clock", "time")
_VERSION = Field("version", "integer", "its place in the job's stream, from 1", "#", right=True)
_TOLD = Field("text", "text", "what it says, in words; not for programs", "what happened", wraps=True)
_PAYLOAD = (
    Field("payload", "any", "what was sent, of a delivery; only with `--payload`. Tagged as above"),
    Field("payload_error", "text", "why the payload cannot be shown, if so; only with `--payload`"),
)

RECEIPTS = View(
    "receipts",
    "what became of a signal to one job",
    (
        _JOB,
        Field(
            "outcome",
            "text",
            "`woken`, `live`, `buffered`, `duplicate` or `ignored`; see the guarantees (D5)",
            "outcome",
        ),
        Field("signal_id", "text or null", "the delivery; of a duplicate the first one; null if ignored", "signal"),
        Field("version", "integer or null", "the delivery's event in the job's stream", "event", right=True),
        Field("reason", "text or null", "why it was ignored, or what became of the first one", "reason", wraps=True),
    ),
)

WAITING = View(
    "waiting",
    "a job that waits, the longest-waiting first",
    (
        _JOB,
        _RUN,
        Field("status", "text", "`live` or `snoozed`", "status"),
        _AWAITED_CHANNEL,
        _ORDINAL,
        Field("since", "instant", "when the wait began", "since"),
        _DEADLINE,
        _CURSOR,
    ),
)

EVENTS = View(
    "events",
    "an event, with all its columns; those that its kind does not have are null",
    (
        Field("position", "integer", "its place in the whole log; on PostgreSQL there may be gaps"),
        _CURSOR,
        _JOB,
        _VERSION,
        _RUN,
        _KIND,
        _RECORDED,
        Field("execution", "integer or null", "the execution that did it"),
        Field("attempt", "integer or null", "the job's attempt at the time"),
        Field("channel", "text or null", "the channel; null is the default channel"),
        Field("ordinal", "integer or null", "which await on the channel within the run"),
        Field("signal_id", "text or null", "the delivery that was made or consumed"),
        Field("delivery_version", "integer or null", "the event of the delivery that was consumed"),
        Field("key", "text or null", "the idempotency key of a delivery"),
        Field("source", "text or null", "who or what signalled"),
        Field("deadline_at", "instant or null", "the deadline of the wait"),
        Field("cause", "text or null", "how the run, or a dep, ended"),
        Field("outcome", "text or null", "what the delivery did at once: `woken`, `live` or `buffered`"),
        Field("dep", "text or null", "the step because of which a step was released, cancelled or went on"),
        Field("plan", "object or null", "of `planned`: workflow_id, workflow_name, name, deps, ignore"),
        Field("payload_digest", "text or null", "SHA-256 of the payload's canonical encoding, in hex"),
        Field("schema_version", "integer", "the version of the event's columns"),
        Field("checksum", "text", "SHA-256 of the event's byte form, in hex"),
        *_PAYLOAD,
    ),
)

TIMELINE = View(
    "timeline",
    "an event of a job, in words",
    (
        _VERSION,
        _RECORDED,
        _KIND,
        _TOLD,
        *_PAYLOAD,
    ),
)

STATE = View(
    "state",
    "a job's wait state",
    (
        Field("job_id", "integer", "the job", "job"),
        Field("run", "integer", "the current run, or the last one if it has ended", "run"),
        Field("version", "integer", "the version of the last event; 0 if there is none", "version"),
        Field("recorded_at", "instant or null", "when that event was recorded", "recorded"),
        Field("status", "text", "`idle`, `live`, `snoozed` or `closed`", "status"),
        Field("channel", "text or null", "the channel of the wait; null is the default channel, or no wait", "channel"),
        Field("ordinal", "integer or null", "which await on the channel; null without a wait", "await"),
        Field("deadline_at", "instant or null", "when the wait ends without a signal", "deadline"),
        Field("execution", "integer", "the execution that last awaited; 0 if none did"),
        Field("pending", "object", 'how many signals each channel holds; `""` is the default channel', "pending"),
        Field(
            "waits",
            "list of objects",
            "the open waits: channel, ordinal, since, deadline_at, deadline_is_final, was_snoozed",
        ),
        Field("provisional", "boolean", "whether an event of the time asked for may still come", "provisional"),
    ),
)

REPLAY = View(
    "replay",
    "an event of a job, and the wait state after it",
    (
        _VERSION,
        _RECORDED,
        _KIND,
        _TOLD,
        Field("status", "text", "the job's status after it", "then"),
        Field(
            "pending",
            "object",
            'how many signals each channel holds then; `""` is the default channel',
            "pending",
            wraps=True,
        ),
        Field("state", "object", "the whole state after it, with the keys of `state`"),
        *_PAYLOAD,
    ),
)

OUTBOX = View(
    "outbox",
    "a signal that was stored with its caller's transaction, and is not relayed or was refused",
    (
        _JOB,
        Field("signal_id", "text", "the delivery's id", "signal"),
        _AWAITED_CHANNEL,
        Field("key", "text or null", "its idempotency key"),
        Field("source", "text or null", "who or what signalled", "source", wraps=True),
        Field("stored_at", "instant", "when it was stored", "stored"),
        Field("refusal", "text or null", "why the relay refused it; null if it is yet to be relayed", "refusal"),
        _CURSOR,
    ),
)

REPORT = View(
    "verify",
    "what was checked, and what is wrong",
    (
        Field("ok", "boolean", "whether nothing is wrong"),
        Field("events", "integer", "how many events were checked"),
        Field("streams", "integer", "how many jobs they are of"),
        Field("found", "integer", "how many findings there are"),
        Field("findings", "list of objects", "the first of them: job_id, version, rule, expected, found"),
    ),
)

_DURATIONS = "count, mean_s, median_s, p95_s and max_s, in seconds; null if count is 0"

STATS = View(
    "stats",
    "what was counted",
    (
        Field("since", "instant or null", "from when on; null is the beginning", "since"),
        Field("until", "instant or null", "up to when", "until"),
        Field("events", "integer", "how many events were read", "events read"),
        Field("streams", "integer", "how many jobs they are of", "jobs"),
        Field("open_waits", "object", 'open waits now, by channel; `""` is the default channel', "open waits"),
        Field("oldest", "object or null", "the wait that has been open for longest, with the keys of `waiting`"),
        Field("delivered", "object", "delivered signals, by what they did at once", "delivered"),
        Field("consumed", "integer", "waits that ended with a signal", "consumed"),
        Field("timed_out", "integer", "waits that ended without one", "timed out"),
        Field("late", "integer", "signals after the deadline of the wait that they could have ended", "late signals"),
        Field("time_to_decision", "object", f"from a wait's beginning to its signal: {_DURATIONS}", "time to decision"),
        Field("time_to_resume", "object", f"from that signal to its consumption: {_DURATIONS}", "time to resume"),
    ),
)

RERUN = View(
    "rerun",
    "how a rerun ended",
    (
        Field("ok", "boolean", "whether the worker did not diverge from the history"),
        Field("ended", "text", "`returned`, `raised`, `stopped` or `diverged`"),
        Field("worker", "text", "the worker that was run"),
        Field("job_id", "integer", "the job of the history"),
        Field("run", "integer", "its run"),
        Field("attempt", "integer", "the attempt that it was run as"),
        Field("divergence", "text or null", "what the worker did that the history does not hold"),
        Field("cause", "text or null", "how the run ended in the history"),
        Field("text", "text", "the whole report, for people"),
    ),
)

WORKFLOW = View(
    "workflow status",
    "how a workflow is doing",
    (
        Field("id", "text", "the workflow", "workflow"),
        Field("name", "text or null", "what people call it", "name"),
        Field("state", "text", "`executing`, `completed`, `cancelled` or `discarded`", "state"),
        Field("total", "integer", "how many steps it has", "steps"),
        Field("counts", "object", "how many of them are in which state", "of them"),
        Field("started_at", "instant", "when the first step was enqueued", "started"),
        Field("ended_at", "instant or null", "when the last step ended", "ended"),
        Field("duration_s", "number", "from the start to the end, or until now, in seconds", "duration"),
        Field("held", "object", "the steps that are held, each with the deps that it is held for"),
        Field("waiting", "list of objects", "who waits for a signal: name, and the keys of `waiting`"),
    ),
)

STEPS = View(
    "workflow graph",
    "a step of a workflow",
    (
        Field("name", "text", "the step", "step", wraps=True),
        Field("job_id", "integer", "its job", "job", right=True),
        Field("state", "text", "the state of its job, or how it ended if that is gone", "state"),
        Field("deps", "list of text", "the steps that must end before it", "after", wraps=True),
        Field("open_deps", "list of text", "those of them that have not ended"),
    ),
)

SCHEMA = View(
    "schema-version",
    "which schema the database has",
    (
        Field("installed", "integer or null", "the version that is installed; null if there is none", "installed"),
        Field("newest", "integer", "the version that this library uses", "newest"),
        Field("is_current", "boolean", "whether they are the same", "current"),
    ),
)

MIGRATED = View(
    "migrate",
    "which schema the database has now",
    (Field("version", "integer", "the version of its tables", "version"),),
)

REBUILT = View("rebuild", "what was folded anew", (Field("streams", "integer", "how many jobs' streams", "streams"),))

SAVED = View(
    "saved",
    "a file that was written",
    (
        Field("file", "text", "its path", "file"),
        Field("events", "integer", "how many events are in it", "events", right=True),
    ),
)

CHECKS = View(
    "doctor",
    "something that was looked at",
    (
        Field("status", "text", "`ok`, `note` or `finding`", "status"),
        Field("name", "text", "what was looked at", "check"),
        Field("found", "text", "what was found", "found", wraps=True),
        Field("advice", "text or null", "what to do, if there is something"),
    ),
)

VIEWS = (
    RECEIPTS,
    WAITING,
    EVENTS,
    TIMELINE,
    STATE,
    REPLAY,
    OUTBOX,
    REPORT,
    STATS,
    RERUN,
    WORKFLOW,
    STEPS,
    SCHEMA,
    MIGRATED,
    REBUILT,
    SAVED,
    CHECKS,
)
