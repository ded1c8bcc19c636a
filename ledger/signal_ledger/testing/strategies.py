"""Hypothesis' strategies: payloads, events, and histories that the rules have written. They need Hypothesis."""

from datetime import UTC, datetime, timedelta

from erlpack import Atom
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from signal_ledger.causes import Cause
from signal_ledger.codec import encode_with_digest
from signal_ledger.events import (
    Awaited,
    Cascaded,
    Closed,
    Consumed,
    Delivered,
    DeliveryOutcome,
    Event,
    Planned,
    Released,
    Skipped,
    Snoozed,
    TimedOut,
)
from signal_ledger.jobs import JobState, JobView
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.plan import FAILURES, Plan
from signal_ledger.testing.histories import History, Step

_ATOM_NAMES = st.sampled_from(["nil", "true", "false", "binary", "atom", "ok"]) | st.text(
    st.characters(max_codepoint=255), max_size=5
)

_SCALARS: SearchStrategy[object] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=10),
    st.binary(max_size=10),
    _ATOM_NAMES.map(Atom),
)

# Tuples that look like the tags which keep bytes and atoms apart.
_TAG_SHAPES = st.tuples(
    st.sampled_from([Atom("binary"), Atom("atom")]), _SCALARS | st.sampled_from(["nil", "x"]), st.none()
).flatmap(lambda shape: st.sampled_from([shape[:2], shape, (*shape, None)]))

_KEYS = _SCALARS | st.lists(_SCALARS, max_size=3).map(tuple)

PAYLOADS: SearchStrategy[object] = st.recursive(
    _SCALARS | _TAG_SHAPES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(_KEYS, inner, max_size=5),
    ),
    max_leaves=15,
)
"""What `payloads` returns."""


def payloads() -> SearchStrategy[object]:
    """Everything that a payload can be: scalars and atoms, lists, tuples and dicts of them, whatever their keys.

    NaN is left out, since it does not equal itself.

    Example:
        >>> from hypothesis import given
        >>> from signal_ledger import codec
        >>> from signal_ledger.testing.strategies import payloads
        >>>
        >>> @given(payloads())
        ... def what_is_sent_comes_back(payload):
        ...     assert codec.decode(codec.encode(payload)) == payload
        >>>
        >>> what_is_sent_comes_back()
    """
    return PAYLOADS


_COUNTS = st.integers(1, 1000)
_EXECUTIONS = _COUNTS.map(Execution)
_INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - of UTC
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
_CHANNELS = st.just("") | _TEXTS
_SIGNAL_IDS = st.uuids().map(str).map(SignalId)


@st.composite
def _waits(draw: DrawFn) -> dict[str, object]:
    return {
        "run": draw(_COUNTS),
        "execution": draw(_EXECUTIONS),
        "attempt": draw(_COUNTS),
        "channel": draw(_CHANNELS),
        "ordinal": draw(_COUNTS),
    }


@st.composite
def _deliveries(draw: DrawFn) -> Delivered:
    encoded = encode_with_digest(draw(payloads()))
    return Delivered(
        run=draw(_COUNTS),
        channel=draw(_CHANNELS),
        signal_id=draw(_SIGNAL_IDS),
        payload=draw(st.sampled_from([encoded.data] * 9 + [None])),
        payload_digest=encoded.digest,
        key=draw(st.none() | _TEXTS),
        source=draw(st.none() | _TEXTS),
        outcome=draw(st.sampled_from(DeliveryOutcome)),
    )


@st.composite
def _plans(draw: DrawFn) -> Plan:
    [name, *deps] = draw(st.lists(_TEXTS, min_size=1, max_size=4, unique=True))
    ignored = draw(st.sets(st.sampled_from(FAILURES)))
    return Plan(
        workflow_id=str(draw(st.uuids())),
        workflow_name=draw(st.none() | _TEXTS),
        name=name,
        deps=tuple(deps),
        ignore=tuple(cause for cause in FAILURES if cause in ignored),
    )


def events() -> SearchStrategy[Event]:
    """Any event, of each kind: each is well-formed by itself. For those that follow from one another see `histories`.

    A payload may be erased, that is None.

    Example:
        >>> from hypothesis import given
        >>> from signal_ledger.testing.strategies import events
        >>>
        >>> @given(events())
        ... def every_event_has_a_run(event):
        ...     assert event.run >= 1
        >>>
        >>> every_event_has_a_run()
    """
    failures = st.sampled_from(FAILURES)
    return st.one_of(
        st.builds(lambda wait, at: Awaited(**wait, deadline_at=at), _waits(), st.none() | _INSTANTS),
        st.builds(lambda wait, at: Snoozed(**wait, deadline_at=at), _waits(), st.none() | _INSTANTS),
        _deliveries(),
        st.builds(
            lambda wait, signal_id, version: Consumed(**wait, signal_id=signal_id, delivery_version=version),
            _waits(),
            _SIGNAL_IDS,
            _COUNTS,
        ),
        st.builds(lambda wait, at: TimedOut(**wait, deadline_at=at), _waits(), _INSTANTS),
        st.builds(
            Closed,
            run=_COUNTS,
            execution=st.integers(0, 1000).map(Execution),
            attempt=st.integers(0, 20),
            cause=st.sampled_from(Cause),
        ),
        st.builds(Planned, run=_COUNTS, plan=_plans()),
        st.builds(Released, run=_COUNTS, dep=_TEXTS),
        st.builds(Skipped, run=_COUNTS, dep=_TEXTS, cause=failures),
        st.builds(Cascaded, run=_COUNTS, dep=_TEXTS, cause=failures),
    )


# A job is mostly as its last event has left it, else little would ever happen.
_FOUND = st.sampled_from(["as the log left it"] * 7 + ["as it may be"] * 2 + ["missing"])
_STATES = st.sampled_from([JobState.EXECUTING] * 5 + [JobState.SCHEDULED] * 3 + list(JobState))
_KINDS = st.sampled_from(["deliver"] * 6 + ["take"] * 9 + ["snooze"] * 4 + ["close"])
_WAIT_FOR = st.none() | st.sampled_from([timedelta(0), timedelta(seconds=5), timedelta(seconds=60)])
_FEW_EXECUTIONS = st.integers(1, 3).map(Execution)


def _steps(sent: SearchStrategy[object]) -> SearchStrategy[Step]:
    return st.builds(
        Step,
        kind=_KINDS,
        seconds=st.sampled_from([0, 0.000001, 1, 5, 61]),
        found=_FOUND,
        view=st.builds(
            JobView,
            state=_STATES,
            execution=_FEW_EXECUTIONS,
            attempt=st.just(1),
            cancel_requested=st.sampled_from([False] * 9 + [True]),
        ),
        execution=_FEW_EXECUTIONS,
        channel=st.sampled_from(["", "", "", "votes"]),
        payload=sent,
        key=st.none() | st.just("k"),
        wait_for=_WAIT_FOR,
        back=st.sampled_from([0, 0, 1]),
        in_place=st.booleans(),
        window=st.booleans(),
    )


def histories(*, job_id: int = 1, payloads: SearchStrategy[object] = _SCALARS) -> SearchStrategy[History]:
    """Streams that the rules could have written: of one job, on the default channel and on "votes", in several runs.

    What is in them comes of commands as engines and signallers give them, in and out of turn, at times that never run
    backwards. Steps of workflows are not among them. Each has its ``events``, a list of `RecordedEvent`, and their
    fold as ``state``.

    Args:
        job_id: The job.
        payloads: What is sent.

    Example:
        >>> from hypothesis import given
        >>> from signal_ledger.testing.strategies import histories
        >>>
        >>> @given(histories())
        ... def nothing_is_consumed_twice(history):
        ...     consumed = [event.signal_id for event in history.events if event.kind == "consumed"]
        ...     assert len(consumed) == len(set(consumed))
        >>>
        >>> nothing_is_consumed_twice()
    """
    steps = _steps(payloads)
    some = st.lists(steps, max_size=8) | st.lists(steps, min_size=12, max_size=40)
    return some.map(lambda taken: History(JobId(job_id), taken))
