"""What is typed, read: instants, durations, payloads; and what is shown, written. No program is run for it."""

import base64
import io
import json
import math
import os
from datetime import UTC, datetime, timedelta

import click
import pytest
from erlpack import Atom
from hypothesis import given

from signal_ledger.errors import DeliveryUnknown, KeyConflict, SchemaError
from signal_ledger.ledger import Ledger
from signal_ledger.ports import StoreUnavailableError
from signal_ledger.recorded import from_stored
from signal_ledger.stored import to_stored
from signal_ledger.testing.strategies import payloads
from signal_ledger_adapters.cli import words
from signal_ledger_adapters.cli.commands.log import _last
from signal_ledger_adapters.cli.exits import Exit, escaped, failure_of
from signal_ledger_adapters.cli.formats import Array, Csv, Lines
from signal_ledger_adapters.cli.parameters import AGO, AHEAD, JOB, parse_arguments, parse_payload
from signal_ledger_adapters.cli.payloads import to_json
from signal_ledger_adapters.cli.saving import whole_file
from signal_ledger_adapters.cli.views import VIEWS, Field
from tests.core.given import delivered
from tests.core.test_stats import filled

SECRET = "swordfish"


# Instants and durations


@pytest.mark.usefixtures("_in_time_zone")
@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-23T12:30Z", datetime(2026, 11, 23, 12, 30, tzinfo=UTC)),
        ("2026-11-23T12:30:01.5+02:00", datetime(2026, 11, 23, 10, 30, 1, 500_000, tzinfo=UTC)),
        ("2026-11-23T12:30", datetime(2026, 11, 23, 6, 45, tzinfo=UTC)),
        ("2026-11-23 12:30:00", datetime(2026, 11, 23, 6, 45, tzinfo=UTC)),
        ("2026-11-23", datetime(2026, 11, 22, 18, 15, tzinfo=UTC)),
    ],
)
def test_an_instant_is_read_in_local_time_unless_it_says_otherwise(text, instant):
    assert AGO.convert(text, None, None) == instant
    assert AGO.convert(text, None, None).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("1.5h", timedelta(hours=1.5)),
        ("15m", timedelta(minutes=15)),
        ("7d", timedelta(days=7)),
        ("1w", timedelta(weeks=1)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_counts_from_now(text, duration):
    before = datetime.now(UTC)
    ago, ahead = AGO.convert(text, None, None), AHEAD.convert(text, None, None)
    after = datetime.now(UTC)
    assert before - duration <= ago <= after - duration
    assert before + duration <= ahead <= after + duration


@pytest.mark.parametrize("text", ["", "soon", "5", "-5s", "5 s", "1y", "1e3s", "99999999999w", "2026-13-01", "12:30"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(click.BadParameter, match="expected a time such as"):
        AGO.convert(text, None, None)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31T23:59-12:00"])
def test_an_instant_at_the_end_of_time_is_read_or_refused(text):
    try:
        assert AGO.convert(text, None, None).tzinfo is UTC
    except click.BadParameter as error:
        assert "expected a time such as" in str(error)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"), (0.0004, "0 s"), (1, "1 s"), (59.9994, "59.999 s"), (59.9996, "1 min"), (60, "1 min"),
        (3599.6, "1 h"), (3600, "1 h"), (84_600, "23 h 30 min"), (86_399, "1 d"), (90_061, "1 d 1 h"),
        (86_400 * 400, "400 d"),
    ],
)  # fmt: skip
def test_a_duration_is_told_with_its_two_largest_units(seconds, told):
    assert words.duration(seconds) == told


def test_instants_are_told_beside_one_another():
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert words.beside(now)(now + timedelta(hours=2)) == "in 2 h"
    assert words.beside(now)(now) == "0 s ago"
    assert words.since(now)(now - timedelta(seconds=1.5)) == "-1.5 s"
    assert words.clock(UTC, day=now.date())(now) == "12:00:00.000"
    assert words.clock(UTC, day=now.date(), milliseconds=False)(now + timedelta(days=1)) == "2026-11-24 12:00:00Z"


# Jobs, payloads and kinds


@pytest.mark.parametrize("text", ["", SECRET, "1.5", "0x10", str(2**63), str(-(2**63) - 1), "9" * 5000])
def test_what_is_no_job_is_refused_and_not_quoted(text):
    with pytest.raises(click.BadParameter, match="expected the id of a job") as refused:
        JOB.convert(text, None, None)
    assert text not in str(refused.value) or text == ""
    assert JOB.convert(str(2**63 - 1), None, None) == 2**63 - 1


@pytest.mark.parametrize(
    ("text", "payload"),
    [("null", None), ('{"a": [1, 2.5, true]}', {"a": [1, 2.5, True]}), ('"@x"', "@x"), ("-0.0", -0.0), ("[]", [])],
)
def test_a_payload_is_json(text, payload, tmp_path, monkeypatch):
    (tmp_path / "file.json").write_text(f"\n{text}\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for argument in (text, f"@{tmp_path / 'file.json'}", "@-"):
        assert parse_payload(argument) == payload


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        f'"{SECRET}',
        f'{{"{SECRET}": 1, "{SECRET}": 2}}',
        f'["{SECRET}", NaN]',
        f'["{SECRET}", -Infinity]',
        f'["{SECRET}", 1e999]',
        f'["{SECRET}"]]',
        f'["{SECRET}", {"9" * 5000}]',
        "[" * 100_000 + SECRET,
        f"'{SECRET}'",
    ],
)
def test_what_is_no_json_is_refused_and_not_quoted(text):
    with pytest.raises(click.BadParameter, match="expected JSON in the argument") as refused:
        parse_payload(text)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_args_are_an_object():
    assert parse_arguments('{"order": 7}') == {"order": 7}
    for text in ("[1]", "7", f'"{SECRET}"', SECRET):
        with pytest.raises(click.BadParameter) as refused:
            parse_arguments(text)
        assert (SECRET not in str(refused.value), refused.value.param_hint) == (True, "--args")


# Payloads as JSON


def from_json(found):
    """Return the payload that `to_json` was given."""
    match found:
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$tuple": items}:
            return tuple(map(from_json, items))
        case {"$atom": name}:
            return Atom(name)
        case {"$float": text}:
            return float(text)
        case {"$map": pairs}:
            return {from_json(key): from_json(value) for key, value in pairs}
        case dict():
            return {key: from_json(value) for key, value in found.items()}
        case list():
            return list(map(from_json, found))
        case _:
            return found


def same(one, other):
    """Whether they are equal, and of the same types."""
    if type(one) is not type(other):
        return False
    match one:
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case dict():
            return same(list(one.items()), list(other.items()))
        case _:
            return one == other


@given(payloads())
def test_nothing_is_lost_in_json(payload):
    assert same(from_json(json.loads(json.dumps(to_json(payload), allow_nan=False))), payload)


def test_what_json_has_no_word_for_is_tagged():
    assert to_json({"$": math.inf}) == {"$map": [["$", {"$float": "inf"}]]}
    assert to_json([math.nan, Atom("nan"), "nan"]) == [{"$float": "nan"}, {"$atom": "nan"}, "nan"]


# The log


async def test_the_last_events_are_the_last_of_the_log_also_where_clocks_have_stepped():
    now = datetime.now(UTC)
    streams = []
    for job_id, seconds in enumerate((30, 3, 20, 2), start=1):
        row = to_stored(delivered(), job_id=job_id, version=1, recorded_at=now - timedelta(seconds=seconds))
        streams.append([from_stored(row, position=job_id, cursor="")])
    ledger = Ledger(filled(streams), None)
    for lines, expected in {1: [4], 2: [3, 4], 3: [2, 3, 4], 9: [1, 2, 3, 4], 0: []}.items():
        assert [event.job_id for event in await _last(ledger, lines, {})] == expected
    assert [event.job_id for event in await _last(ledger, 2, {"job_id": 3})] == [3]
    assert await _last(ledger, 2, {"job_id": 9}) == []


# Rows


def test_rows_are_written_one_a_line_whatever_is_in_them():
    fields = [Field("a", "", ""), Field("b", "", ""), Field("payload", "", "")]
    rows = [{"a": "x\ny\x1b", "b": datetime(2026, 1, 1, tzinfo=UTC)}, {"a": None, "b": [1], "payload": {"$": 1}}]
    written = {}
    for form in (Lines, Array, Csv):
        stream = io.StringIO()
        writer = form(stream, fields)
        for row in rows:
            writer.add(row)
        writer.end()
        written[form] = stream.getvalue()
    assert written[Lines] == (
        '{"a": "x\\ny\\u001b", "b": "2026-01-01T00:00:00.000000Z"}\n{"a": null, "b": [1], "payload": {"$": 1}}\n'
    )
    assert json.loads(written[Array]) == [json.loads(line) for line in written[Lines].splitlines()]
    assert written[Csv] == 'a,b,payload\n"x\ny\x1b",2026-01-01T00:00:00.000000Z,\n,[1],"{""$"": 1}"\n'
    stream = io.StringIO()
    Array(stream, fields).end()
    assert stream.getvalue() == "[]\n"


def test_a_key_is_there_once_in_each_view():
    for view in VIEWS:
        keys = [field.key for field in view.fields]
        assert len(keys) == len(set(keys))


# Files


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as stream:
        stream.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    with whole_file(path) as stream:
        stream.write("after")
    assert ([each.name for each in tmp_path.iterdir()], path.read_text()) == (["file"], "after")


def test_what_is_no_file_is_not_replaced_and_a_link_stays_one(tmp_path):
    # Not a device: while this fails, root would replace it.
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="expected a file that can be replaced"), whole_file(path):
            pass
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with whole_file(tmp_path / "link") as stream:
        stream.write("through it")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "file").read_text()) == (True, "through it")
    with pytest.raises(ValueError, match="expected a file in a folder that can be written"):
        whole_file(tmp_path / "none" / "file").__enter__()


# Ends


def test_errors_end_with_their_statuses():
    unknown = DeliveryUnknown(signal_id="4c2d", timeout_s=1.5, reason="why")
    told_of_unknown = (
        "within 1.5 s (why): the signal may or may not have been stored; repeat the command with --key 4c2d to deliver "
        "it at most once"
    )
    for error, status, told in [
        (KeyConflict(job_id=1, key="k", signal_id="s", difference="payload"), Exit.CONFLICT, "key 'k'"),
        (unknown, Exit.TIMED_OUT, told_of_unknown),
        (TimeoutError(), Exit.TIMED_OUT, "the database did not answer in time"),
        (SchemaError("it is older"), Exit.UNUSABLE, "it is older"),
        (StoreUnavailableError("gone"), Exit.UNUSABLE, "gone"),
        (LookupError("no job"), Exit.NOT_FOUND, "no job"),
        (ValueError("expected"), Exit.USAGE, "expected"),
        (ConnectionResetError("reset"), Exit.UNUSABLE, "ConnectionResetError: reset"),
    ]:  # fmt: skip
        failure = failure_of(error)
        assert (failure.status, told in str(failure)) == (status, True), failure
    assert failure_of(KeyError("a mistake of ours")) is None
    assert failure_of(RuntimeError("a mistake of ours")) is None


def test_a_terminal_obeys_nothing_in_a_failure():
    assert escaped("one\x1b[2J\ntwo\x07\r") == "one\\x1b[2J\ntwo\\x07"
