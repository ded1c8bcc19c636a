"""Bad input is refused before anything is written, and told what was expected."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest

from signal_ledger.arguments import to_channel, to_duration, to_optional_text, to_seconds, to_share, to_targets
from signal_ledger.cursors import cursor_position, cursor_wait, position_cursor, wait_cursor
from signal_ledger.instants import from_text, require_instant, to_milliseconds, to_text


@dataclass
class Job:
    id: object


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (1.5, 1.5), (timedelta(days=1), 86_400), (timedelta(0), 0), (50 * 365 * 86_400, None)],
)
def test_durations_are_seconds_or_timedeltas(value, seconds):
    duration = to_duration("wait_for", value)
    assert seconds is None or duration.total_seconds() == seconds


@pytest.mark.parametrize("value", [-1, -0.1, math.nan, math.inf, -math.inf, 51 * 365.25 * 86_400, 10**400])
def test_durations_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="wait_for: expected 0 seconds to 50 years, got"):
        to_duration("wait_for", value)


@pytest.mark.parametrize("value", [timedelta(seconds=-1), timedelta.min, timedelta.max, timedelta(days=51 * 366)])
def test_timedeltas_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="wait_for: expected"):
        to_duration("wait_for", value)


@pytest.mark.parametrize("value", [True, "1", None, [1], 1j])
def test_durations_of_other_types_are_refused(value):
    with pytest.raises(TypeError, match="wait_for: expected seconds or a timedelta, got"):
        to_duration("wait_for", value)
    with pytest.raises(TypeError, match="timeout: expected a number of seconds, got"):
        to_seconds("timeout", value)


def test_channels_are_text_and_the_default_one_has_no_name():
    assert to_channel(None) == ""
    assert to_channel("votes") == "votes"
    with pytest.raises(ValueError, match="channel: expected a str or None of 1 to 255 bytes, got an empty str"):
        to_channel("")


@pytest.mark.parametrize("text", ["x" * 256, "é" * 128, "\ud800", "a\0b"])
def test_unfit_text_is_refused(text):
    with pytest.raises(ValueError, match="key: expected"):
        to_optional_text("key", text)


def test_text_of_other_types_is_refused():
    for value in (b"bytes", 1, True, ["a"]):
        with pytest.raises(TypeError, match="source: expected a str or None, got"):
            to_optional_text("source", value)
    assert to_optional_text("source", "é" * 127) == "é" * 127


def test_targets_are_ids_or_jobs_or_iterables_of_them():
    assert to_targets(7) == ([7], True)
    assert to_targets(Job(7)) == ([7], True)
    assert to_targets([7, Job(8), 7]) == ([7, 8, 7], False)
    assert to_targets(number for number in (1, 2)) == ([1, 2], False)
    assert to_targets({3}) == ([3], False)
    assert to_targets([]) == ([], False)
    assert to_targets(Job(Job(2**63 - 1))) == ([2**63 - 1], True)


@pytest.mark.parametrize("target", [True, [1, False], "7", b"7", {7: 8}, 7.0, None, [None], ["7"], object(), Job(True)])
def test_targets_of_other_types_are_refused(target):
    with pytest.raises(TypeError, match="target: expected a job id"):
        to_targets(target)


@pytest.mark.parametrize("target", [2**63, -(2**63) - 1, [1, 2**64], Job(2**63)])
def test_ids_outside_64_bits_are_refused(target):
    with pytest.raises(ValueError, match="of 64 bits"):
        to_targets(target)


def test_a_job_that_was_not_enqueued_is_refused():
    with pytest.raises(ValueError, match="expected a job that has been enqueued"):
        to_targets(Job(None))


def test_instants_are_aware():
    berlin = timezone(timedelta(hours=1))
    assert require_instant("at", datetime(2026, 1, 1, 13, tzinfo=berlin)) == datetime(2026, 1, 1, 12, tzinfo=UTC)
    with pytest.raises(ValueError, match="at: expected an aware datetime, got one without a time zone"):
        require_instant("at", datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError, match="at: expected an aware datetime, got str"):
        require_instant("at", "2026-01-01")


def test_instants_survive_being_written_down():
    for instant in (datetime(2026, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)):
        assert from_text(to_text(instant)) == instant
    assert to_text(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-01T00:00:00.000000Z"
    assert to_milliseconds(datetime(1970, 1, 1, 0, 0, 1, 999, tzinfo=UTC)) == 1000


def test_cursors_come_back_as_what_they_stand_for():
    assert cursor_position(position_cursor(7)) == 7
    since = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert cursor_wait(wait_cursor(since, -3)) == (since, -3)


@pytest.mark.parametrize("cursor", ["", "7", "p", "p-1", "px", "w1_1", "p1 ", "p" + "9" * 20, "p\u0663"])
def test_what_is_no_cursor_of_an_event_is_refused(cursor):
    with pytest.raises(ValueError, match="cursor: expected the cursor of an event, got"):
        cursor_position(cursor)


@pytest.mark.parametrize("cursor", ["", "p1", "w1", "w1_", "w1_x"])
def test_what_is_no_cursor_of_a_wait_is_refused(cursor):
    with pytest.raises(ValueError, match="after: expected the cursor of a waiting job, got"):
        cursor_wait(cursor)


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_share_is_a_number_from_0_to_1(share):
    assert to_share("live_share", share) == share


@pytest.mark.parametrize(("share", "error"), [(1.1, ValueError), (-1, ValueError), (True, TypeError), ("1", TypeError)])
def test_other_shares_are_refused(share, error):
    with pytest.raises(error, match="live_share: expected a number from 0 to 1, got"):
        to_share("live_share", share)
