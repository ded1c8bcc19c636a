"""What the doctor says at a terminal: a table of what was found, and below it what to do."""

import json

import pytest
from click.testing import CliRunner

from signal_ledger_adapters.cli.program import program

pytestmark = pytest.mark.usefixtures("_own_logging")


def doctor(path, form, columns=80):
    options = ["doctor", "--url", f"sqlite:///{path}", "-o", form]
    done = CliRunner().invoke(program, options, env={"COLUMNS": str(columns)})
    return done.exit_code, done.stdout


@pytest.mark.parametrize("columns", [80, 140])
def test_what_to_do_stands_below_the_table_and_takes_no_room_in_it(tmp_path, columns):
    path = tmp_path / "nowhere.db"
    status, shown = doctor(path, "table", columns)
    table, _, below = shown.partition("\n\nWhat to do:\n")
    assert status == 1
    assert table.split("\n")[0].split() == ["status", "check", "found"]
    assert max(map(len, shown.split("\n"))) <= columns
    advised = [check for check in json.loads(doctor(path, "json")[1]) if check["advice"]]
    assert [check["name"] for check in advised if check["status"] == "finding"] == ["connection"]
    told = " ".join(below.split())
    assert told == " ".join([f"{check['name']}: {check['advice']}" for check in advised])


def test_where_there_is_nothing_to_do_nothing_is_said_of_it(tmp_path):
    path = tmp_path / "signals.db"
    CliRunner().invoke(program, ["migrate", f"sqlite:///{path}"])
    _, told = doctor(path, "json")
    status, shown = doctor(path, "table")
    assert status == 0
    assert ("What to do:" in shown) is any(check["advice"] for check in json.loads(told))
    assert "no engine runs, and there is nothing to do for one" in " ".join(shown.split())
