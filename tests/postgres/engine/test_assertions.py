"""The assertions of the test kit on Oban and PostgreSQL: they are the same as on every engine."""

import math

import pytest

from signal_ledger import signal
from signal_ledger.testing import (
    assert_not_waiting,
    assert_receipt,
    assert_signalled,
    assert_state,
    assert_timed_out,
    assert_waiting,
)
from tests.postgres.engine.workers import APPROVED, Approval, Votes


async def test_they_tell_what_a_job_on_oban_does(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    await assert_waiting(job, channel="", deadline_in=86_400)
    await assert_state(job, "scheduled")
    with pytest.raises(
        AssertionError, match=r"job \d+ \(Approval\): expected to be completed; it is scheduled\n   1  "
    ):
        await assert_state(job, "completed")
    assert_receipt(await signal(job, APPROVED, source="ada"), "woken")
    await it.until(job, "completed")
    await assert_not_waiting(job)
    await assert_signalled(job, payload=APPROVED, source="ada", via=it.engine)
    with pytest.raises(AssertionError, match=r'but payload\["decision"\] is another str'):
        await assert_signalled(job, payload={"decision": "declined"}, via=it.ledger)
    with pytest.raises(AssertionError, match="expected a wait to have timed out; it is completed"):
        await assert_timed_out(job)


async def test_a_wait_without_a_deadline_is_told_as_such(it):
    job = await Votes.enqueue()
    await it.until_status(job, "snoozed")
    await assert_waiting(job, channel="votes", deadline_in=math.inf)
