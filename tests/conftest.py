"""Fixtures of all tests. Nothing here is a stand-in: stores are real, files are files."""

import signal

import pytest

pytest.register_assert_rewrite("signal_ledger.testing")


def pytest_configure():
    """Have SIGINT interrupt the programs that tests start: a shell that runs the tests in its background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """Show what each fault did: `record_property` is where tests write it down."""
    reports = [report for report in terminalreporter.stats.get("passed", []) if report.user_properties]
    if reports:
        terminalreporter.section("figures")
    for report in reports:
        figures = ", ".join(f"{name} {value}" for name, value in report.user_properties)
        terminalreporter.line(f"{report.nodeid}: {figures}")
