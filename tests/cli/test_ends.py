"""How the program ends: each exit status, with one line that says why and quotes no secret."""

import getpass
import os
import sqlite3
import subprocess

import psycopg
import pytest

from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.cli.program import PROGRAM, environment, on_terminal, run, started
from tests.cli.sites import SECRET, all_of
from tests.postgres.faults.server import halted

NOWHERE = f"postgresql://ada:{SECRET}@127.0.0.1:1/app"


def refused(*arguments, status, **options):
    """Return what it says on standard error: no traceback and no secret; and nothing on standard output."""
    done = run(*arguments, **options)
    assert (done.status, done.out) == (status, ""), done.err
    assert "Traceback" not in done.err
    return done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("waiting",), "expected the URL of a database, by --url or in SIGNAL_LEDGER_URL"),
        (("waiting", "--url", SECRET), "url: expected a database URL such as sqlite:///signals.db"),
        (("waiting", "--url", f"mysql://ada:{SECRET}@localhost/app"), "url: no backend for mysql://; installed:"),
        (("waiting", "--url", f"postgresql://ada:{SECRET}/app"), "url: expected a database URL such as"),
        (("nonsense",), "No such command 'nonsense'"),
        (("timeline", "seven"), "expected the id of a job, which is a number"),
        (("timeline", str(2**63)), "expected the id of a job, of 64 bits, got a larger number"),
        (("events", "--since", "yesterday"), "or how long ago, such as 90s, 15m, 2h, 7d or 1w, got 'yesterday'"),
        (("signal", "7", "--url", NOWHERE), "Missing option '-p' / '--payload'"),
        (("signal", "7", "-p", SECRET, "--url", NOWHERE), "line 1, column 1 is none"),
        # As the shell splits it where quotes were forgotten.
        (("signal", "7", "-p", "{a:", f"{SECRET}}}", "--url", NOWHERE), "expected the id of a job, which is a number"),
        (("signal", "7", "-p", f'{{"{SECRET}": NaN}}', "--url", NOWHERE), "no NaN and no Infinity"),
        (("signal", "7", "-p", "@/nowhere/at all", "--url", NOWHERE), "got /nowhere/at all: No such file or directory"),
    ],
)
def test_a_wrong_call_ends_with_2(arguments, told):
    assert told in refused(*arguments, status=2)


def test_payloads_that_are_none_end_with_2_and_are_not_quoted(file_site, tmp_path):
    url = file_site.url
    broken = tmp_path / "broken.json"
    broken.write_bytes(b'"' + SECRET.encode() + b'\xff"')
    assert "expected JSON in UTF-8 in standard input" in refused(
        "signal", 1, "-p", "@-", url=url, stdin=broken.read_bytes(), status=2
    )
    assert f"expected JSON in UTF-8 in {broken}" in refused("signal", 1, "-p", f"@{broken}", url=url, status=2)
    told = refused("signal", 1, "-p", rf'"{SECRET}\ud800"', url=url, status=2)
    assert "payload: the str holds a lone surrogate" in told


def test_what_cannot_be_asked_ends_with_2(file_site):
    told = refused("state", 1, "--at", "1h", "--cursor", "x", url=file_site.url, status=2)
    assert "expected at= or cursor=, got both" in told
    told = refused("waiting", "--after", "x", url=file_site.url, status=2)
    assert "after: expected the cursor of a waiting job, got 'x'" in told


def test_what_is_not_there_ends_with_3(server_site):
    assert refused("timeline", 404, url=server_site.url, status=3) == (
        "signal-ledger: there is no job 404, and the log has no events of it\n"
    )
    told = refused(
        "workflow", "signal", server_site.workflow, "nope", "-p", f'"{SECRET}"', url=server_site.url, status=3
    )
    assert (
        "there is no step 'nope'; there are approval, =cmd|' /C calc'!A0, two\\nlines\\r\\x1b[2J\\x1b]0;owned\\x07\n"
        in told
    )


def test_a_job_without_events_is_told_of(server_site):
    done = run("history", server_site.jobs["silent"], url=server_site.url)
    assert (done.status, done.out) == (0, "")
    assert done.err == f"job {server_site.jobs['silent']} has no events yet: shop.two\\nlines\\r, scheduled\n"


def test_a_signal_to_a_job_that_has_ended_ends_with_3_and_a_key_of_another_with_4(own_site):
    url, parcel = own_site.url, own_site.jobs["parcel"]
    done = run("signal", own_site.jobs["purchase"], parcel, "-p", "@-", "--key", "k", url=url, stdin=b'{"a": 1}')
    assert done.status == 3
    assert [(row["outcome"], row["reason"]) for row in done.jsonl] == [("ignored", "completed"), ("buffered", None)]
    told = refused("signal", parcel, "-p", f'"{SECRET}"', "--key", "k", "-vv", url=url, status=4)
    assert "key 'k' already belongs to delivery" in told
    again = run("signal", parcel, "-p", '{"a": 1}', "--key", "k", "-o", "csv", url=url)
    assert (again.status, again.csv[0]["outcome"], again.csv[0]["reason"]) == (0, "duplicate", "pending")
    # `own_site` is asked last: opening a file for a moment changes what is beside it.
    [delivery] = [event for event in own_site.ask(lambda ledger: ledger.history(parcel)) if event.key == "k"]
    assert (delivery.source, delivery.payload) == (getpass.getuser(), {"a": 1})


def test_steps_are_signalled_by_their_names(own_site):
    done = run("workflow", "signal", own_site.workflow, "approval", "-p", f'"{SECRET}"', "--source", "me", "-vv",
               url=own_site.url)  # fmt: skip
    assert (done.status, done.jsonl[0]["outcome"]) == (0, "woken"), done.err
    assert own_site.ask(lambda ledger: ledger.history(own_site.jobs["step"]))[-1].source == "me"


def tamper(site):
    """Change what a delivery says, behind the ledger's back; erase a payload, and damage one."""
    marks = {
        "source = '\x1b[2Jforged'": "'none'",
        "payload = NULL": "'text'",
        "payload = {}": "'lists'",
    }
    if site.is_file:
        with sqlite3.connect(site.path) as connection:
            triggers = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
            for [name] in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            for change, key in marks.items():
                connection.execute(f"UPDATE signal_ledger_events SET {change.format("x'83ff'")} WHERE key = {key}")
        connection.close()
        return
    with psycopg.connect(site.url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for change, key in marks.items():
            connection.execute(f"UPDATE signal_ledger.events SET {change.format("'\\x83ff'")} WHERE key = {key}")


def test_a_log_that_was_tampered_with_ends_verify_with_1_and_shows_what_it_can(own_site):
    tamper(own_site)
    found = run("verify", "-o", "json", url=own_site.url)
    assert (found.status, found.json["ok"], found.err) == (1, False, "")
    assert {(finding["job_id"], finding["version"]) for finding in found.json["findings"]} >= {
        (own_site.jobs["parcel"], 1),
        (own_site.jobs["parcel"], 3),
    }
    assert SECRET not in found.out
    shown = run("timeline", own_site.jobs["parcel"], "--payload", url=own_site.url)
    assert shown.status == 0
    assert ["payload_error" in row for row in shown.jsonl[:4]] == [False, True, True, False]
    assert "was erased" in shown.jsonl[1]["payload_error"]
    table = run("verify", "-o", "table", "--findings", 1, url=own_site.url)
    assert (table.status, "\x1b" in table.out, " more\n" in table.out) == (1, False, True)


def test_a_database_that_is_not_there_or_holds_no_ledger_ends_with_6(cluster, tmp_path):
    other, empty = tmp_path / "other.db", tmp_path / "empty.db"
    other.write_text("no database")
    with sqlite3.connect(empty) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    for line, path, told in [
        ("waiting", tmp_path / "none.db", "does not exist; `signal-ledger migrate` or lite(url) makes a ledger in it"),
        ("rebuild", tmp_path / "none.db", "does not exist; `signal-ledger migrate` or lite(url) makes a ledger in it"),
        ("stats", other, "is no SQLite database; nothing was changed"),
        ("signal 1 -p 1", empty, "holds no ledger; `signal-ledger migrate` or lite(url) makes one in it"),
    ]:
        assert refused(*line.split(), url=f"sqlite:///{path}", status=6) == f"signal-ledger: {path} {told}\n"
    assert not (tmp_path / "none.db").exists()
    told = refused("verify", url=cluster.url("none"), status=6)
    assert told == 'signal-ledger: InvalidCatalogNameError: database "none" does not exist\n'
    assert refused("tail", url=NOWHERE, status=6).startswith("signal-ledger: the database could not be reached: ")


def test_a_wrong_password_is_told_without_it():
    with scratch_cluster(durable=False, tcp=True) as cluster:
        right = cluster.url()
        wrong = right.replace(right.partition("postgres:")[2].partition("@")[0], SECRET)
        told = refused("waiting", "-vv", url=wrong, status=6).splitlines()
    assert told[-1] == 'signal-ledger: InvalidPasswordError: password authentication failed for user "postgres"'


def test_a_server_that_does_not_answer_ends_with_5(cluster, server_site):
    with halted(cluster):
        for line in ("waiting", f'signal 1 -p "{SECRET}"'):
            told = refused(*line.split(), "--timeout", 1, url=server_site.url, status=5)
            assert told.startswith("signal-ledger: ")


def test_a_lock_that_outlasts_the_timeout_ends_a_signal_with_5_and_its_key_makes_it_safe_to_repeat(own_database):
    job_id, url = own_database.jobs["parcel"], own_database.url
    with psycopg.connect(url) as other:
        other.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [job_id])
        told = refused("signal", job_id, "-p", '["once"]', "--timeout", 1, "-vv", url=url, status=5)
    key = told.partition("--key ")[2].partition(" ")[0]
    assert "the signal may or may not have been stored" in told
    for _ in range(2):
        assert run("signal", job_id, "-p", '["once"]', "--key", key, url=url).status == 0
    history = own_database.ask(lambda ledger: ledger.history(job_id))
    assert [event.payload for event in history].count(["once"]) == 1


def test_a_locked_file_ends_with_5_and_nothing_is_written(own_file):
    before = len(own_file.ask(lambda ledger: ledger.history(own_file.jobs["parcel"])))
    other = sqlite3.connect(own_file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    told = refused("signal", own_file.jobs["parcel"], "-p", "1", url=own_file.url, status=5)
    assert "is locked by another program" in told
    other.close()
    assert len(own_file.ask(lambda ledger: ledger.history(own_file.jobs["parcel"]))) == before


@pytest.mark.parametrize("line", ["export", "events -o table"])
def test_a_reader_that_goes_away_ends_it_with_141_and_without_a_word(file_site, line):
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen([*PROGRAM, *line.split()], stdout=writing, stderr=subprocess.PIPE,
                          env=environment(SIGNAL_LEDGER_URL=file_site.url)) as process:  # fmt: skip
        os.close(writing)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_a_file_that_cannot_be_written_is_told_of(file_site, tmp_path):
    told = refused("export", "--to", tmp_path / "none" / "x", url=file_site.url, status=2)
    assert "expected a file in a folder that can be written" in told


def test_a_role_that_may_only_read_reads_and_is_told_that_it_may_not_write(own_database):
    with psycopg.connect(own_database.url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS cli_reader")
        connection.execute("CREATE ROLE cli_reader LOGIN")
        connection.execute("GRANT USAGE ON SCHEMA signal_ledger TO cli_reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA signal_ledger TO cli_reader")
        url = own_database.url.replace("postgres@", "cli_reader@")
        assert url != own_database.url
        assert run("timeline", own_database.jobs["purchase"], url=url).status == 0
        assert "permission denied" in refused("signal", 1, "-p", "1", url=url, status=6)
        assert "permission denied" in refused("rebuild", url=url, status=6)
        connection.execute("DROP OWNED BY cli_reader; DROP ROLE cli_reader")


def test_options_stand_before_a_command_and_behind_it_and_win_over_the_variable(file_site):
    before = run("--url", file_site.url, "-o", "csv", "--times", "utc", "stats", url=NOWHERE)
    behind = run("stats", "--url", file_site.url, "-o", "csv", "--times", "utc", "-v", url=NOWHERE)
    assert (before.status, behind.status, before.out) == (0, 0, behind.out)
    assert before.csv[0]["late"] == "1"


@pytest.mark.parametrize("line", ["verify", "stats", "export"])
def test_long_work_shows_a_bar_on_a_terminal_and_the_answer_goes_where_it_should(file_site, line):
    shown = on_terminal(line, url=file_site.url, out=False)
    assert shown.status == 0
    assert {"verify": "verifying", "stats": "counting", "export": "exporting"}[line] in shown.err
    assert len(shown.jsonl) == (len(file_site.ask(lambda ledger: all_of(ledger.events()))) if line == "export" else 1)


def test_an_export_to_a_terminal_has_no_bar(file_site):
    assert "exporting" not in on_terminal("export", url=file_site.url).out


def test_two_at_once_answer_the_same(file_site):
    url = file_site.url
    with started("verify", url=url) as one, started("verify", url=url) as other:
        answers = [process.communicate(timeout=60) for process in (one, other)]
    assert answers[0] == answers[1]
    assert (one.returncode, other.returncode) == (0, 0)
