"""Steps as a reader sees them: what a retry of the workflow takes up again, and how a workflow is doing."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_ledger.causes import Cause
from signal_ledger.plan import FAILURES
from signal_ledger.steps import Step, see, steps_to_retry
from signal_ledger.workflow_status import status_of
from tests.core.given import a_plan, at


def a_step(name="charge", *, ended_as=None, job_id=1, held=0, ignore=(), planned=0, ended=None, workflow_name=None):
    return Step(
        plan=a_plan(name, ignore=ignore, workflow_name=workflow_name),
        job_id=job_id,
        held=held,
        planned_at=at(planned),
        ended_as=ended_as and Cause(ended_as),
        ended_at=None if ended_as is None else at(ended or 0),
    )


def seen(name="charge", edges=None, *, ended_as=None, has_job=True, state=None, **fields):
    edges = {dep: cause and Cause(cause) for dep, cause in (edges or {}).items()}
    state = (state or ended_as or "available") if has_job else None
    return see(a_step(name, ended_as=ended_as, **fields), state, edges)


def test_a_step_is_seen_with_its_deps_in_the_order_of_their_names():
    one = seen(edges={"b": None, "a": "completed", "d": "deleted", "c": "discarded"}, ignore=["deleted"])
    assert one.step.plan.deps == ("a", "b", "c", "d")
    assert (one.name, one.open_deps, one.failed_deps) == ("charge", ("b",), ("c",))


def test_a_step_whose_job_is_gone_is_seen_as_it_ended():
    assert (seen(ended_as="completed", has_job=False).state, seen(has_job=False).state) == ("completed", "deleted")
    assert not seen(has_job=False).has_job
    assert seen(state="executing").state == "executing"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], []),
        ([seen("a"), seen("b", ended_as="completed")], []),
        ([seen("a", ended_as="cancelled"), seen("b", ended_as="discarded")], ["a", "b"]),
        ([seen("a", ended_as="deleted", has_job=False)], []),
        ([seen("a", ended_as="discarded", has_job=False)], []),
        # Taken up with the dep that it failed for, but not without.
        ([seen("b", {"a": "discarded"}, ended_as="cancelled"), seen("a", ended_as="discarded")], ["b", "a"]),
        ([seen("b", {"a": "discarded"}, ended_as="cancelled"), seen("a", ended_as="discarded", has_job=False)], []),
        ([seen("b", {"a": "cancelled"}, ended_as="cancelled"), seen("a", ended_as="completed")], []),
        ([seen("b", {"nobody": "deleted"}, ended_as="cancelled")], []),
        # Left out for two reasons.
        (
            [
                seen("a", ended_as="cancelled", has_job=False),
                seen("b", {"a": "cancelled"}, ended_as="cancelled"),
                seen("c", {"a": "cancelled", "b": "cancelled"}, ended_as="cancelled"),
            ],
            [],
        ),
        # A dep that it ignores, or that has not ended, does not matter.
        ([seen("b", {"a": "deleted"}, ended_as="discarded", ignore=["deleted"])], ["b"]),
        ([seen("b", {"a": None}, ended_as="cancelled")], ["b"]),
    ],
)
def test_a_retry_takes_up_what_failed_with_the_deps_that_it_failed_for(steps, expected):
    assert steps_to_retry(steps) == tuple(expected)


def test_who_depends_on_a_step_that_is_left_out_is_left_out_too_and_so_on():
    chain = [seen(f"s{n}", {f"s{n - 1}": "cancelled"}, ended_as="cancelled") for n in range(1, 1000)]
    gone = seen("s0", ended_as="cancelled", has_job=False)
    assert steps_to_retry([gone, *chain]) == ()
    assert len(steps_to_retry([seen("s0", ended_as="cancelled"), *chain])) == 1000


CAUSES = st.none() | st.sampled_from(Cause)


@st.composite
def graphs(draw):
    count = draw(st.integers(0, 8))
    names = [f"s{n}" for n in range(count)]
    return [
        seen(
            name,
            draw(st.dictionaries(st.sampled_from([*names, "nobody"]).filter(lambda dep, me=name: dep != me), CAUSES)),
            ended_as=draw(CAUSES),
            has_job=draw(st.sampled_from([True, True, False])),
            ignore=draw(st.sets(st.sampled_from(FAILURES))),
        )
        for name in draw(st.permutations(names))
    ]


@given(steps=graphs())
def test_a_retry_takes_up_the_largest_set_that_needs_nobody_else(steps):
    """Compared to the definition: leave out who needs somebody that is left out, as long as there is one."""
    chosen = {one.name for one in steps if one.has_job and one.step.ended_as in ("cancelled", "discarded")}
    by_name = {one.name: one for one in steps}
    while wrong := {name for name in chosen if not chosen.issuperset(by_name[name].failed_deps)}:
        chosen -= wrong
    assert steps_to_retry(steps) == tuple(one.name for one in steps if one.name in chosen)


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (["completed", None], "executing"),
        (["discarded", None], "executing"),
        (["completed", "completed"], "completed"),
        (["completed", "cancelled"], "cancelled"),
        (["completed", "deleted"], "cancelled"),
        (["cancelled", "discarded"], "discarded"),
    ],
)
def test_a_workflow_has_ended_when_all_of_its_steps_have(ends, state):
    status = status_of([seen(f"s{n}", ended_as=end) for n, end in enumerate(ends)], at(60))
    assert (status.state, status.total) == (state, 2)


def test_a_status_counts_states_and_says_who_is_held_for_whom():
    steps = [
        seen("a", state="executing", planned=5, workflow_name="order 7"),
        seen("b", {"a": None, "z": "completed"}, state="suspended", held=1),
        seen("c", {"a": None}, state="available"),
        seen("d", ended_as="completed", has_job=False, ended=7),
    ]
    status = status_of(steps, at(60))
    assert (status.id, status.name) == ("w", "order 7")
    assert status.counts == {"executing": 1, "suspended": 1, "available": 1, "completed": 1}
    assert status.held == {"b": ("a",)}
    assert (status.started_at, status.ended_at, status.duration) == (at(0), None, timedelta(seconds=60))


def test_the_duration_of_what_has_ended_stands_still():
    steps = [seen("a", ended_as="completed", planned=5, ended=9), seen("b", ended_as="deleted", planned=6, ended=8)]
    status = status_of(steps, at(60))
    assert (status.started_at, status.ended_at, status.duration) == (at(5), at(9), timedelta(seconds=4))


@given(steps=graphs().filter(bool))
def test_statuses_add_up(steps):
    status = status_of(steps, at(60))
    assert sum(status.counts.values()) == status.total == len(steps)
    assert (status.ended_at is None) == (status.state == "executing") == any(one.step.ended_as is None for one in steps)
