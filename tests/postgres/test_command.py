"""``python -m signal_ledger migrate``, run as users do."""

import os
import subprocess
import sys

import psycopg
import pytest

from signal_ledger import migration_sql
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.postgres.catalogue import catalogue, differences
from tests.postgres.conftest import install_oban

PASSWORD = "open-sesame"


def command(*arguments, url=None):
    environment = {name: value for name, value in os.environ.items() if name != "SIGNAL_LEDGER_URL"}
    return subprocess.run(
        [sys.executable, "-m", "signal_ledger", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment | ({} if url is None else {"SIGNAL_LEDGER_URL": url}),
    )


def refusal(*arguments, url=None, status):
    """What it says on standard error: one line, no traceback, no password."""
    done = command(*arguments, url=url)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr
    return done.stderr


@pytest.fixture
async def oban(database):
    await install_oban(database)
    return database


async def test_it_migrates_the_database_that_an_argument_names(oban, cluster, template_of_fresh):
    for _ in range(2):
        done = command("migrate", oban, url="postgresql://nowhere.invalid/none")
        assert (done.returncode, done.stdout, done.stderr) == (0, "the schema signal_ledger has version 4\n", "")
    assert differences(catalogue(cluster.url(template_of_fresh)), catalogue(oban)) == {}


async def test_it_migrates_the_database_that_the_environment_names(database):
    await install_oban(database, "Our Jobs")
    done = command("migrate", "--schema", "Audit", "--oban-prefix=Our Jobs", url=database)
    assert (done.returncode, done.stdout) == (0, "the schema Audit has version 4\n"), done.stderr
    assert catalogue(database, "Audit", "Our Jobs")["settings"][0][2:] == ("Our Jobs", False)


async def test_it_prints_the_sql_and_changes_nothing(oban, psql):
    done = command("migrate", oban, "--sql", "--schema=audit")
    assert (done.returncode, done.stdout, done.stderr) == (0, migration_sql(schema="audit"), "")
    with psycopg.connect(oban) as connection:
        assert connection.execute("SELECT to_regnamespace('audit')").fetchone() == (None,)
    psql(oban, done.stdout)
    assert command("migrate", oban, "--schema=audit").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "the following arguments are required: command"),
        (("nonsense",), "invalid choice: 'nonsense'"),
        (("migrate",), "expected the URL of a database, as an argument or in SIGNAL_LEDGER_URL"),
        (("migrate", "app"), "url: expected a database URL such as postgresql://localhost/app"),
        (("migrate", f"postgresql://ada:{PASSWORD}/app"), "url: expected a database URL such as"),
        (("migrate", f"mysql://ada:{PASSWORD}@localhost/app"), "url: expected postgresql://..., got a mysql URL"),
        (
            ("migrate", f"postgresql://ada:{PASSWORD}@127.0.0.1:1/app?sslmode=nonsense"),
            "`sslmode` parameter must be one of",
        ),
        (("migrate", "--sql", "--schema="), "schema: expected the name of a schema, 1 to 63 bytes, got ''"),
        (("migrate", "postgresql:///app", "--oban-prefix=" + 64 * "x"), "oban_prefix: expected the name of a schema"),
    ],
)
def test_a_wrong_call_is_told_so(arguments, told):
    assert told in refusal(*arguments, status=2)


async def test_a_database_that_cannot_serve_is_told_so(database):
    assert refusal("migrate", database, status=1).startswith(
        "signal_ledger: there is no table oban_jobs in schema 'public'; install Oban's schema first"
    )


def test_a_database_that_is_not_there_is_told_so(cluster):
    assert refusal("migrate", cluster.url("none"), status=1) == (
        'signal_ledger: InvalidCatalogNameError: database "none" does not exist\n'
    )


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{PASSWORD}@127.0.0.1:1/app",
        f"postgresql://ada:{PASSWORD}@nowhere.invalid/app",
        f"postgresql://ada:{PASSWORD}@127.0.0.1:1/app?nonsense=1",
        f"postgresql://ada:{PASSWORD}@127.0.0.1:1/app?host={PASSWORD}&host=other",
    ],
)
def test_no_connection_is_told_without_the_password(url):
    told = refusal("migrate", url=url, status=1)
    assert told.startswith("signal_ledger: the database could not be reached: ")
    assert told.count("\n") == 1


def test_a_wrong_password_is_told_without_it():
    with scratch_cluster(durable=False, tcp=True) as cluster:
        right = cluster.url()
        wrong = right.replace(right.partition("postgres:")[2].partition("@")[0], PASSWORD)
        assert refusal("migrate", wrong, status=1) == (
            'signal_ledger: InvalidPasswordError: password authentication failed for user "postgres"\n'
        )
        assert "there is no table oban_jobs" in refusal("migrate", f"{right}?sslmode=disable", status=1)
