"""The benchmarks run; what they measure is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import Figure, table


@pytest.mark.parametrize("section", ["deliver", "wake", "codec"])
def test_a_section_runs_and_writes_its_figures(tmp_path, section):
    command = [sys.executable, "-m", "benchmarks", section, "--rounds", "1", "--seconds", "0.02"]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json", str(tmp_path / "raw.json")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "raw.json").read_text())[section]
    assert figures
    assert all(figure["rounds"][0] > 0 for figure in figures)
    assert all(figure["name"] in done.stdout for figure in figures)


def test_ratios_are_taken_round_by_round():
    yardstick = Figure(name="raw", unit="rows/s", rounds=(100.0, 200.0, 1000.0))
    mine = Figure(name="ours", unit="rows/s", rounds=(50.0, 100.0, 900.0), yardstick=yardstick)
    assert (mine.value, mine.ratio) == (100.0, 0.5)
    assert "100 rows/s        0.50 x raw" in table("Title", [mine])
