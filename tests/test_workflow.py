"""Workflows as far as they need no engine: what can be added to one, and how it is drawn."""

import pytest
from oban import Job

from signal_ledger import Workflow
from tests.workflows import Charge, order


async def test_without_an_engine_a_workflow_can_be_made_but_not_asked():
    workflow = order()
    found_none = (
        r"expected an open engine in this process, found none; open one with lite\(...\), or name a ledger by via=$"
    )
    for question in (workflow.status, workflow.waiting, workflow.cancel, workflow.retry):
        with pytest.raises(RuntimeError, match=rf"^Workflow\('order 7'\): {found_none}"):
            await question()
    with pytest.raises(RuntimeError, match=rf"^Workflow\('some id'\): {found_none}"):
        await Workflow.load("some id")
    workflow.jobs["approval"].id = 1
    with pytest.raises(RuntimeError, match=rf"^Workflow\('order 7'\): {found_none}"):
        await workflow.signal("approval", 1)
    workflow.jobs["approval"].id = None
    with pytest.raises(ValueError, match="expected to be enqueued before it is signalled"):
        await workflow.signal("approval", 1)
    assert (len(workflow), dict(workflow.job_ids)) == (2, {})
    assert repr(workflow) == "Workflow('order 7')"


def test_a_graph_is_drawn_with_all_names_as_they_are():
    workflow = Workflow().add('say "hi" <b>&\n#9829;`', Charge.new()).add("end", Charge.new(), 'say "hi" <b>&\n#9829;`')
    assert workflow.graph() == (
        'flowchart TD\n    s1["say #quot;hi#quot; #lt;b#gt;#amp; #35;9829;#96;"]\n    s2["end"]\n    s1 --> s2'
    )
    assert Workflow().graph() == "flowchart TD"


def test_jobs_carry_their_plans_under_obans_own_names():
    workflow = order(ignore_deleted=True)
    assert workflow.jobs["charge"].meta == {
        "workflow_id": workflow.id,
        "workflow_name": "order 7",
        "name": "charge",
        "deps": ["approval"],
        "ignore_deleted": True,
    }
    assert [str(job.state) for job in workflow] == ["available", "suspended"]


# Errors, before anything is written


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("approval", Charge.new()), ValueError, "expected a new name, 'approval' was added already"),
        (("a", Charge.new(), "nobody"), ValueError, "expected steps that were added before, got 'nobody'; added: 'app"),
        (("a", Charge.new(), ["approval", "nobody"]), ValueError, "got 'nobody'"),
        (("a", Charge.new(), "a"), ValueError, "expected other steps, 'a' cannot wait for itself"),
        (("a", Charge.new(), [7]), TypeError, "deps: expected names of steps, got builtins.int"),
        (("a", Charge.new(), b"approval"), TypeError, "deps: expected names of steps, got builtins.bytes"),
        (
            ("a", Charge.new(), bytearray(b"approval")),
            TypeError,
            "deps: expected names of steps, got builtins.bytearray",
        ),
        (("a", Charge.new(), None), TypeError, "deps: expected names of steps, got builtins.NoneType"),
        ((7, Charge.new()), TypeError, "name: expected a str, got int"),
        ((b"a", Charge.new()), TypeError, "name: expected a str, got bytes"),
        (("", Charge.new()), ValueError, "name: expected a str of 1 to 255 bytes, got an empty str"),
        (("é" * 128, Charge.new()), ValueError, "name: expected"),
        (("a", Charge), TypeError, "job: expected a Job, such as Worker.new"),
        (("a", Job("x", id=7)), ValueError, "job: expected one that is not enqueued, 'a' has id 7"),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_the_workflow_stays_as_it_was(arguments, error, message):
    workflow = order()
    with pytest.raises(error, match=message):
        workflow.add(*arguments)
    assert list(workflow.jobs) == ["approval", "charge"]


def test_a_job_belongs_to_one_step_of_one_workflow():
    job = Charge.new()
    workflow = Workflow().add("a", job)
    for other in (workflow, Workflow()):
        with pytest.raises(ValueError, match="expected a job of its own for 'b', this one was added already"):
            other.add("b", job)


@pytest.mark.parametrize("option", ["ignore_cancelled", "ignore_discarded", "ignore_deleted"])
def test_options_are_bools(option):
    with pytest.raises(TypeError, match=f"{option}: expected True or False, got str"):
        Workflow(**{option: "yes"})
    with pytest.raises(TypeError, match=f"{option}: expected True or False, got int"):
        Workflow().add("a", Charge.new(), **{option: 1})


def test_a_workflows_name_is_text():
    with pytest.raises(TypeError, match="name: expected a str, got int"):
        Workflow(7)
    with pytest.raises(ValueError, match="name: expected"):
        Workflow("")
    workflow = Workflow()
    assert (workflow.name, repr(workflow)) == (None, f"Workflow('{workflow.id}')")
