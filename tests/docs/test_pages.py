"""What the documentation says of the code is so: names exist, and tables leave nothing out."""

import inspect
import re
from dataclasses import fields

import pytest

import signal_ledger
from signal_ledger import events, telemetry, testing
from signal_ledger.stored import StoredEvent
from signal_ledger_adapters.postgres import tables
from signal_ledger_adapters.postgres.schema import migrations, triggers
from signal_ledger_adapters.sqlite import tables as sqlite_tables
from tests.docs.pages import PAGES, ROOT, name
from tests.doctor import test_files, test_servers
from tests.view_answers import PREFIX, VIEWS

DOCS = ROOT / "docs"

PROMISES = [
    f"{family}{number}" for family, last in (("D", 9), ("W", 14), ("L", 8), ("F", 5)) for number in range(1, last + 1)
]


def first_cells(page, heading):
    """The first cell of each row of the first table below a heading."""
    _, _, below = (DOCS / page).read_text(encoding="utf-8").partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None, f"{page}: no table below {heading}"
    rows = table[0].splitlines()[2:]
    return [row.split("|")[1].strip().strip("`") for row in rows]


def test_the_tests_that_pages_name_exist():
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("tests", "property_tests", "ledger/signal_ledger/testing")
        for path in (ROOT / folder).rglob("*.py")
    )
    there = set(re.findall(r"def (test_\w+)", sources))
    named = {test for page in PAGES for test in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    assert named
    assert named <= there, sorted(named - there)


def test_every_promise_is_told():
    page = (DOCS / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    assert re.findall(r"^### ([DWLF]\d+)\.", page, re.MULTILINE) == PROMISES


def test_every_column_of_the_log_is_described():
    columns = [column.name for column in sqlite_tables.events.columns]
    assert columns == ["position", *StoredEvent._fields]
    assert first_cells("reference/log.md", "## The columns of `signal_ledger_events`") == columns


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_of_a_view_is_described(view):
    page = "reference/sqlite-views.md"
    assert first_cells(page, f"## `{PREFIX}{view}`") == VIEWS[view].split()


def test_every_view_is_listed_with_its_question():
    page = (DOCS / "reference" / "sqlite-views.md").read_text(encoding="utf-8")
    assert re.findall(rf"\[`{PREFIX}(\w+)`\]\(#{PREFIX}\1\)", page) == list(VIEWS)


def test_every_column_of_the_log_on_postgres_is_described():
    columns = [column.name for column in tables.events.columns]
    assert columns == ["position", "turn", *StoredEvent._fields]
    assert first_cells("reference/postgres.md", "### The columns of `events`") == columns


def test_every_table_on_postgres_is_described():
    sql = "\n".join(migration.sql for migration in migrations())
    there = re.findall(r"^CREATE TABLE ledger\.(\w+)", sql, re.MULTILINE)
    assert first_cells("reference/postgres.md", "## The tables") == [*there, "settings"]


def test_every_trigger_on_obans_table_is_described():
    assert set(first_cells("reference/postgres.md", "## The triggers on `oban_jobs`")) == triggers()


def test_every_field_of_an_event_is_described():
    told = first_cells("reference/events.md", "A field that a kind does not have is None.")
    has = {field.name for event_class in events.KIND_OF for field in fields(event_class)}
    assert set(told) == has


@pytest.mark.parametrize(("position", "event_class"), list(enumerate(events.KIND_OF, start=2)))
def test_the_table_of_events_says_which_kind_has_which_field(position, event_class):
    _, _, below = (DOCS / "reference" / "events.md").read_text(encoding="utf-8").partition("| field |")
    rows = [row.split("|") for row in below.partition("\n\n")[0].splitlines()[2:]]
    told = {row[1].strip().strip("`") for row in rows if row[position].strip()}
    assert told == {field.name for field in fields(event_class)}


def test_every_check_of_the_doctor_is_described():
    page = (DOCS / "reference" / "doctor.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    told = [check for cell in cells for check in re.findall(r"`(\w+)`", cell)]
    assert len(set(told)) == len(told)
    assert set(told) == {*test_files.ALL, *test_servers.ALL}


def test_every_option_of_the_embedded_engine_is_described():
    assert first_cells("reference/lite.md", "## Options") == list(inspect.signature(signal_ledger.lite).parameters)


def test_every_event_of_telemetry_is_described_with_what_it_carries():
    told = first_cells("reference/telemetry.md", "## The events")
    assert [f"signal_ledger.{name}" for name in told] == list(telemetry.EVENTS)
    _, _, below = (DOCS / "reference" / "telemetry.md").read_text(encoding="utf-8").partition("## The events")
    rows = [row.split("|") for row in below.partition("\nWhat is carried:")[0].splitlines() if row.startswith("| `")]
    carried = {field for row in rows for field in re.findall(r"`(\w+)`", row[3])}
    assert set(first_cells("reference/telemetry.md", "What is carried:")) == {*carried, "system_time"}


@pytest.mark.parametrize("function", [signal_ledger.attach, signal_ledger.migrate], ids=lambda each: each.__name__)
def test_every_option_on_postgres_is_described(function):
    told = first_cells("reference/postgres.md", f"### Of `{function.__name__}`")
    assert told == list(inspect.signature(function).parameters)


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    told = re.findall(r"auto\w+:: signal_ledger\.(\w+)$", page, re.MULTILINE)
    assert sorted([*told, "codec", "telemetry"]) == sorted(signal_ledger.__all__)
    told = re.findall(r"auto\w+:: signal_ledger\.testing\.(\w+)$", page, re.MULTILINE)
    assert sorted(told) == sorted(testing.__all__)


def test_the_files_that_the_readme_names_exist():
    paths = re.findall(r"`((?:docs/[\w/.-]+)|[A-Z]+(?:\.md)?)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(paths) > 5
    for path in paths:
        assert path == "docs/_build/html" or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_load_nothing_from_elsewhere(page):
    """They must work without a network. A link to follow is no such thing."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"!\[[^]]*\]\(https?:|<(?:img|script|link)\b", text)
