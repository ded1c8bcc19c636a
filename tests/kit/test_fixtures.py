"""The fixtures, in real sessions of pytest under each of the frameworks that run async tests."""

import pytest

from tests.kit.sessions import play

CONFTEST = 'pytest_plugins = ["signal_ledger.testing.fixtures"]\n'

WORKERS = """
from datetime import timedelta

from oban import Cancel, worker

from signal_ledger import SignalTimeout, await_signal


@worker()
class Approval:
    async def process(self, job):
        try:
            return await await_signal(wait_for=timedelta(days=1))
        except SignalTimeout:
            return Cancel("no decision")
"""

TESTS = """
from datetime import timedelta

import pytest

from signal_ledger import signal
from signal_ledger.testing import assert_state, assert_waiting, run
from workers import Approval

{mark}

async def test_a_signal_wakes_it(manual_engine):
    async with manual_engine as engine:
        job = await Approval.enqueue()
        await engine.drain()
        await assert_waiting(job, deadline_in=timedelta(days=1))
        await signal(job, "approved")
        await engine.drain()
        await assert_state(job, "completed")


async def test_a_deadline_ends_it(manual_engine, manual_clock):
    async with manual_engine:
        job = await Approval.enqueue()
        before = manual_clock()
        await manual_engine.advance(timedelta(days=2))
        await assert_state(job, "cancelled")
        assert manual_clock() - before == timedelta(days=2)


async def test_it_runs_alone():
    assert (await run(Approval, signals=["approved"])).result == "approved"
"""

PLAIN = """
import asyncio

from signal_ledger.testing import assert_waiting
from workers import Approval


def test_by_asyncio_run(manual_engine):
    async def main():
        async with manual_engine as engine:
            job = await Approval.enqueue()
            await engine.drain()
            await assert_waiting(job)

    asyncio.run(main())
"""

ANYIO = """

@pytest.fixture
def anyio_backend():
    return "asyncio"


pytestmark = pytest.mark.anyio
"""


@pytest.mark.parametrize(
    ("mark", "arguments"),
    [
        pytest.param("", ["-o", "asyncio_mode=auto"], id="pytest-asyncio, auto"),
        pytest.param("pytestmark = pytest.mark.asyncio", ["-o", "asyncio_mode=strict"], id="pytest-asyncio, strict"),
        pytest.param(ANYIO, ["-p", "no:asyncio"], id="anyio"),
    ],
)
def test_they_work_the_same_under(tmp_path, mark, arguments):
    if "anyio" in mark:
        pytest.importorskip("anyio")
    files = {"conftest.py": CONFTEST, "workers.py": WORKERS, "test_it.py": TESTS.format(mark=mark)}
    session = play(tmp_path, files, *arguments)
    assert session.outcomes == {"passed": 3}, session.output


def test_no_framework_is_needed(tmp_path):
    files = {"conftest.py": CONFTEST, "workers.py": WORKERS, "test_it.py": PLAIN}
    session = play(tmp_path, files, "-p", "no:asyncio", "-p", "no:anyio")
    assert session.outcomes == {"passed": 1}, session.output


def test_nothing_of_it_is_loaded_unless_it_is_asked_for(tmp_path):
    session = play(tmp_path, {"test_it.py": "def test_it(manual_engine):\n    pass\n"})
    assert session.outcomes == {"error": 1}
    assert "fixture 'manual_engine' not found" in session.output


def test_an_engine_that_is_left_open_is_an_error_of_that_test_and_of_no_other(tmp_path):
    tests = (
        "import asyncio\n\n\n"
        "def test_one(manual_engine):\n    asyncio.run(manual_engine.start())\n\n\n"
        "def test_other(manual_engine):\n    asyncio.run(use(manual_engine))\n\n\n"
        "async def use(engine):\n    async with engine:\n        pass\n"
    )
    session = play(tmp_path, {"conftest.py": CONFTEST, "test_it.py": tests})
    assert session.outcomes == {"passed": 2, "error": 1}, session.output
    assert "manual_engine: expected to be closed when the test ends, it is open" in session.output


def test_the_clock_is_the_users_to_override(tmp_path):
    conftest = CONFTEST + (
        "from datetime import UTC, datetime\n\nimport pytest\n\nfrom signal_ledger.testing import ManualClock\n\n\n"
        "@pytest.fixture\ndef manual_clock():\n    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))\n"
    )
    tests = "def test_it(manual_engine):\n    assert str(manual_engine.clock()) == '2026-01-01 00:00:00+00:00'\n"
    session = play(tmp_path, {"conftest.py": conftest, "test_it.py": tests})
    assert session.outcomes == {"passed": 1}, session.output


FAILING = """
from datetime import timedelta

from oban import worker

from signal_ledger import signal
from signal_ledger.testing import assert_signalled, assert_state, assert_waiting, run
from workers import Approval


@worker()
class Broken:
    async def process(self, job):
        return job.args["nonsense"]


async def test_waiting(manual_engine):
    async with manual_engine as engine:
        job = await Approval.enqueue()
        await engine.advance(timedelta(days=1))
        await assert_waiting(job)


async def test_payload(manual_engine):
    async with manual_engine:
        job = await Approval.enqueue()
        await signal(job, {"card": "s3cret"})
        await assert_signalled(job, payload={"card": "other"})


async def test_broken(manual_engine):
    async with manual_engine as engine:
        await Broken.enqueue()
        await engine.drain()


async def test_state(manual_engine):
    async with manual_engine as engine:
        job = await Broken.enqueue()
        await engine.drain(raising=False)
        await assert_state(job, "completed")


async def test_run():
    it = await run(Approval)
    assert it.state == "completed", str(it)
"""


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    files = {"conftest.py": CONFTEST, "workers.py": WORKERS, "test_it.py": FAILING}
    session = play(tmp_path_factory.mktemp("failing"), files, "-o", "asyncio_mode=auto")
    assert session.outcomes == {"failed": 5}, session.output
    return session.output


def test_a_failure_shows_the_line_of_the_test_and_nothing_of_the_kits_inside(failing):
    assert ">           await assert_waiting(job)" in failing
    assert "assertions.py" not in failing
    assert "E           AssertionError: job 1 (Approval): expected to wait; it is cancelled" in failing
    assert "E              3  " in failing


def test_a_failure_that_a_worker_raised_shows_where(failing):
    assert failing.count('>       return job.args["nonsense"]') == 2
    assert "job 1 (test_it.Broken) failed in attempt 1 of 20; raising=False keeps this" in failing
    assert "The above exception was the direct cause of the following exception" in failing


def test_a_failure_shows_no_payload_of_a_signal(failing):
    assert 'payload["card"] is another str' in failing
    shown = [line.strip() for line in failing.splitlines() if "s3cret" in line]
    # The test's own source.
    assert shown == ['await signal(job, {"card": "s3cret"})']


def test_a_run_is_the_message_of_an_assertion_on_it(failing):
    assert "E       AssertionError: job 1 (Approval): cancelled, after 2 executions in 1 day, 0:00:00" in failing
