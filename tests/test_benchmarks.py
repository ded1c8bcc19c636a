"""The benchmarks run, on small numbers; what they measure is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import lite_engine, report, results
from benchmarks.figures import Figure, table
from benchmarks.options import Options
from benchmarks.usage import Usage, resident_bytes
from signal_ledger import lite, open_ledger

ROOT = Path(__file__).parents[1]


def bench(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("section", ["deliver", "wake", "codec"])
def test_a_section_runs_and_writes_its_figures(tmp_path, section):
    raw = tmp_path / "raw.json"
    said = bench(section, "--rounds", 1, "--seconds", 0.02, "--folder", tmp_path, "--json", raw)
    figures = json.loads(raw.read_text())[section]["figures"]
    assert figures
    assert all(figure["rounds"][0] > 0 for figure in figures)
    assert all(figure["name"] in said for figure in figures)


async def test_the_embedded_engine_is_measured_as_a_whole(tmp_path, monkeypatch):
    small = {"MANY": 20, "PARKED": (1, 20), "SIGNALS": 20}
    for name, value in small.items():
        monkeypatch.setattr(lite_engine, name, value)
    options = Options(folder=tmp_path, rounds=1, seconds=0.02, events=(0, 40))
    figures = await lite_engine.lite_engine(options)
    assert all(figure.value > 0 for figure in figures)


async def test_the_long_log_of_the_embedded_engine_is_a_sound_one(tmp_path):
    path = tmp_path / "log.db"
    async with lite(f"sqlite:///{path}", queues={}):
        lite_engine.load_history(path, 40)
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        assert str(await ledger.verify()) == "verify: ok (40 events, 10 streams)"


def test_a_run_leaves_the_results_of_other_sections_in_the_file(tmp_path):
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps({"other": {"title": "Other", "options": {}, "versions": {}, "figures": []}}))
    bench("codec", "--rounds", 1, "--seconds", 0.01, "--folder", tmp_path, "--json", raw)
    assert list(json.loads(raw.read_text())) == ["other", "codec"]


def test_the_page_of_figures_is_what_the_raw_results_say():
    there = (ROOT / "docs" / "explanation" / "figures.md").read_text(encoding="utf-8")
    assert there == report.page(results.read(ROOT / "docs" / "_static" / "benchmarks.json"))


def test_the_page_says_which_aims_are_met():
    yardstick = Figure(name="raw", unit="rows/s", rounds=(100.0,))
    figures = [
        Figure(name="fast", unit="rows/s", rounds=(50.0,), yardstick=yardstick, at_least=0.5),
        Figure(name="slow", unit="rows/s", rounds=(49.0,), yardstick=yardstick, at_least=0.5),
        Figure(name="quick", unit="ms", rounds=(2.0,), at_most=2),
        Figure(name="lame", unit="ms", rounds=(2.1,), at_most=2),
    ]
    section = results.Section(
        title="Title", options={}, versions={"machine": "here"}, figures=[figure.as_json() for figure in figures]
    )
    _, _, page = report.page({"postgres": section}).partition("## Title")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert [row[-1].removesuffix(" |") for row in rows[2:]] == [
        "at least 0.5: met",
        "at least 0.5: not met",
        "at most 2: met",
        "at most 2: not met",
    ]


def test_ratios_are_taken_round_by_round():
    yardstick = Figure(name="raw", unit="rows/s", rounds=(100.0, 200.0, 1000.0))
    mine = Figure(name="ours", unit="rows/s", rounds=(50.0, 100.0, 900.0), yardstick=yardstick, at_least=0.4)
    assert (mine.value, mine.ratio) == (100.0, 0.5)
    assert "100 rows/s         0.50 x raw  (aim: at least 0.4)" in table("Title", [mine])


def test_the_processor_time_of_this_process_is_measured():
    before = Usage.so_far()
    while Usage.so_far().since(before).client_s < 0.01:
        pass
    assert Usage.so_far().server_s is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
def test_the_memory_of_a_process_is_measured():
    assert resident_bytes("self") > 2**20
