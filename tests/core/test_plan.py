"""Plans of steps: as a job carries them in its meta, and as the log holds them (promises F4, F5)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_ledger.causes import Cause
from signal_ledger.plan import FAILURES, Plan
from tests.core.given import a_plan

NAMES = st.text(min_size=1, max_size=20)
PLANS = st.builds(
    Plan,
    workflow_id=NAMES,
    workflow_name=st.none() | NAMES,
    name=st.just("step"),
    deps=st.lists(NAMES.filter(lambda name: name != "step"), unique=True, max_size=5).map(tuple),
    ignore=st.sets(st.sampled_from(FAILURES)).map(lambda causes: tuple(c for c in FAILURES if c in causes)),
)


@given(plan=PLANS)
def test_f5_a_plan_comes_back_from_the_log_and_from_meta_as_it_was(plan):
    assert Plan.from_text(plan.text) == plan
    assert Plan.of_meta({"other": 1, **plan.to_meta()}) == plan
    assert Plan.of_meta(json.loads(json.dumps(plan.to_meta()))) == plan


def test_f5_the_text_of_a_plan_is_compact_json_in_a_fixed_order():
    plan = a_plan("charge", ["approval", "grün"], ignore=["deleted"], workflow="w", workflow_name='order "7"')
    assert plan.text == (
        '{"workflow_id":"w","workflow_name":"order \\"7\\"","name":"charge","deps":["approval","grün"],'
        '"ignore":["deleted"]}'
    )


def test_meta_has_obans_own_names_and_only_what_is_true():
    assert a_plan("charge", ["approval"], ignore=["cancelled"], workflow_name="order 7").to_meta() == {
        "workflow_id": "w",
        "workflow_name": "order 7",
        "name": "charge",
        "deps": ["approval"],
        "ignore_cancelled": True,
    }
    assert a_plan("approval").to_meta() == {"workflow_id": "w", "name": "approval", "deps": []}


def test_a_job_without_a_workflow_is_no_step():
    assert Plan.of_meta({"name": "charge", "deps": ["approval"]}) is None


def test_f1_a_step_tolerates_what_was_completed_and_what_it_ignores():
    plan = a_plan(ignore=["cancelled", "deleted"])
    assert [cause for cause in Cause if plan.tolerates(cause)] == ["completed", "cancelled", "deleted"]
    assert [cause for cause in Cause if a_plan().tolerates(cause)] == ["completed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workflow_id": 7}, "int where text was expected"),
        ({"workflow_name": 7}, "int where text was expected"),
        ({"name": None}, "NoneType where text was expected"),
        ({"deps": [None]}, "NoneType where text was expected"),
        ({"deps": "approval"}, "str where a list was expected"),
        ({"deps": None}, "NoneType where a list was expected"),
        ({"deps": ["charge"]}, "'charge' cannot wait for itself"),
        ({"deps": ["approval", "approval"]}, "expected each step once"),
    ],
)
def test_f2_a_meta_that_is_no_plan_is_refused_since_it_would_be_held_for_ever(change, message):
    with pytest.raises(ValueError, match=f"meta: .*{message}"):
        Plan.of_meta({"workflow_id": "w", "name": "charge", "deps": [], **change})


def test_a_meta_without_a_name_is_refused():
    with pytest.raises(ValueError, match="something is wrong with 'name'"):
        Plan.of_meta({"workflow_id": "w"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"workflow_id":7,"workflow_name":null}', "7"])
def test_a_text_that_is_no_plan_is_refused(text):
    with pytest.raises(ValueError):
        Plan.from_text(text)


def test_a_failure_that_this_library_does_not_know_is_not_ignored():
    text = a_plan(ignore=["deleted"]).text.replace('"deleted"', '"deleted","paused"')
    assert Plan.from_text(text).ignore == (Cause.DELETED,)
