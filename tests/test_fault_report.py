"""What the tests of faults write down becomes a page, also when they run in several processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fault_report
from tests.fault_figures import Figures, Sent, compare
from tests.fault_list import FAULTS
from tests.fault_report import page

ROOT = Path(__file__).parents[1]

SOME = """
import pytest
from tests.fault_figures import Figures

@pytest.mark.parametrize("number", [1, 2])
def test_one(number, record_property):
    Figures(acknowledged=10 * number, unknown=number, worst_s=number / 10).record(record_property, happened=number)

def test_another():
    pytest.skip("not here")

def test_one_that_says_nothing():
    pass
"""


def told(test, outcome="passed", **properties):
    figures = {"acknowledged": 0, "lost": 0, "doubled": 0, "unknown": 0, "committed": 0, "worst_s": 0.0}
    return {"test": test, "outcome": outcome, "figures": {**figures, **properties}}


def rows(results):
    made = page({"versions": {"machine": "here"}, "tests": results})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines if len(line) != 3} == {15}
    return {line[0]: (line[1:8], line[8:]) for line in lines if len(line) == 15}


@pytest.mark.parametrize("processes", [0, 2])
def test_figures_are_written_as_json_however_many_processes_run_the_tests(tmp_path, processes):
    (tmp_path / "test_some.py").write_text(SOME)
    command = ("-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--confcutdir", ROOT, "-p", "tests.conftest")
    written = tmp_path / "figures.json"
    options = ("-p", "no:cacheprovider", "-n", str(processes), "--fault-figures", written, tmp_path / "test_some.py")
    done = subprocess.run([sys.executable, *command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = json.loads(written.read_text())["tests"]
    assert [test["outcome"] for test in tests] == ["skipped", "passed", "passed", "passed"]
    assert tests[0]["reason"] == "not here"
    assert [test["figures"].get("happened") for test in tests[1:]] == [1, 2, None]
    assert [test["figures"].get("acknowledged") for test in tests[1:]] == [10, 20, None]


def test_the_page_of_faults_is_what_the_raw_results_say():
    there = (ROOT / "docs" / "explanation" / "faults.md").read_text(encoding="utf-8")
    assert there == page(json.loads((ROOT / "docs" / "_static" / "faults.json").read_text(encoding="utf-8")))


def test_both_engines_stand_side_by_side_with_the_parameters_of_a_test_together():
    [zombies] = [fault for fault in FAULTS if "zombies" in fault.name]
    found = rows(
        [
            told(f"tests/faults/a.py::{zombies.lite[0]}[0]", happened=3, acknowledged=1000, worst_s=0.1),
            told(f"tests/faults/a.py::{zombies.lite[0]}[60]", happened=4, acknowledged=500, worst_s=0.3),
            told(f"tests/postgres/engine/a.py::{zombies.oban[0]}", unknown=7, committed=2, ended=5),
        ]
    )
    assert found[zombies.name] == (["7", "1,500", "0", "0", "0", "0", "0.30"], ["5", "0", "0", "0", "7", "2", "0.00"])
    [crash] = [fault for fault in FAULTS if fault.name == "the server crashes"]
    assert [cells[0] for cells in found[crash.name]] == ["— there is no server", "— not in this run"]


def test_a_test_that_no_row_names_stands_under_its_own_name():
    found = rows([told("tests/postgres/faults/a.py::test_new[1]", acknowledged=3)])
    assert found["`test_new`"] == (["— not in this run", *[""] * 6], ["✓", "3", "0", "0", "0", "0", "0.00"])


def test_there_is_no_page_of_a_run_with_a_failure():
    with pytest.raises(ValueError, match=r"these did not: tests/a\.py::test_x"):
        page({"versions": {"machine": "here"}, "tests": [told("tests/a.py::test_x", "failed")]})


def test_every_test_that_a_row_names_exists():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    there = set(re.findall(r"def (test_\w+)", sources))
    named = {name for fault in FAULTS for engine in ("lite", "oban") for name in fault_report.tests_of(fault, engine)}
    assert named <= there, sorted(named - there)


def test_a_fault_that_did_not_happen_fails_its_test():
    with pytest.raises(AssertionError, match="the fault did not happen"):
        Figures(acknowledged=1).record(lambda name, value: None, happened=0)


@pytest.mark.parametrize("name", ["lost", "doubled"])
def test_a_signal_that_is_lost_or_doubled_fails_its_test(name):
    with pytest.raises(AssertionError, match=f"{name}=1"):
        Figures(**{name: 1}).record(lambda name, value: None, happened=1)


ONE, OTHER, THIRD = Sent(1, "one", "a"), Sent(1, b"one", "b"), Sent(2, "one", "c")


def test_what_senders_were_told_is_compared_with_the_log():
    found = compare(
        acknowledged=[ONE, OTHER],
        unknown=[THIRD, Sent(2, "two", None)],
        before=[ONE, THIRD],
        after=[ONE, THIRD],
        worst_s=1,
    )
    assert found == Figures(acknowledged=2, lost=1, unknown=2, committed=1, worst_s=1)


@pytest.mark.parametrize("there", [Sent(1, b"one", "a"), Sent(1, "one", "z"), Sent(2, "one", "a")])
def test_a_signal_with_other_bytes_or_another_id_or_of_another_job_counts_as_lost(there):
    told = [ONE, Sent(there.job_id, there.payload, None)]
    assert compare(acknowledged=[ONE], unknown=told, before=[], after=[there], worst_s=0).lost == 1


def test_a_payload_that_is_there_twice_counts_as_doubled():
    twice = [ONE, Sent(1, "one", "z")]
    assert compare(acknowledged=[ONE], unknown=[], before=twice, after=twice, worst_s=0).doubled == 1


def test_a_signal_that_nobody_sent_is_noticed():
    with pytest.raises(AssertionError, match="nobody sent"):
        compare(acknowledged=[ONE], unknown=[], before=[], after=[ONE, OTHER], worst_s=0)
