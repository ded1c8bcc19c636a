"""Fixtures of all tests. Nothing here is a stand-in: stores are real, files are files."""

import contextlib
import json
import signal
from pathlib import Path

import pytest

from tests.requirements import require_program

pytest.register_assert_rewrite(
    "signal_ledger.testing", "tests.demo.told", "tests.telemetry", "tests.tracing", "tests.workflows"
)


def pytest_addoption(parser):
    parser.addoption(
        "--fault-figures",
        metavar="FILE",
        type=Path,
        help="write the figures of the tests that have some as JSON, for `./run fault-figures FILE`",
    )


def pytest_configure():
    """Have SIGINT interrupt the programs that tests start: a shell that runs the tests in its background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def faketime():
    """A library that fakes the clocks of processes; skips where there is none."""
    require_program("faketime", "faketime")
    # Of a process that was killed, or crashed with its server: a later one with the same number could not begin.
    for left in Path("/dev/shm").glob("*faketime_s*_*"):
        if not Path("/proc", left.name.rpartition("_")[2]).exists():
            with contextlib.suppress(OSError):
                left.unlink()


def pytest_terminal_summary(terminalreporter, config):
    """Show what each fault did: `record_property` is where tests write it down."""
    reports = [report for report in terminalreporter.stats.get("passed", []) if report.user_properties]
    if reports:
        terminalreporter.section("figures")
    for report in reports:
        figures = ", ".join(f"{name} {value}" for name, value in report.user_properties)
        terminalreporter.line(f"{report.nodeid}: {figures}")
    path = config.getoption("fault_figures")
    if path is not None:
        path.write_text(_figures(terminalreporter.stats), encoding="utf-8")
        terminalreporter.line(f"figures: {path}")


def _figures(stats):
    """Return what became of each test, with its figures, as JSON."""
    from benchmarks.results import versions

    tests = [
        {"test": report.nodeid, "outcome": outcome, **_told(report)}
        for outcome in ("passed", "failed", "error", "skipped")
        for report in stats.get(outcome, [])
    ]
    tests.sort(key=lambda test: test["test"])
    return json.dumps({"versions": versions(), "tests": tests}, indent=1) + "\n"


def _told(report):
    if report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return {"reason": reason.removeprefix("Skipped: ")}
    return {"figures": dict(report.user_properties)}
