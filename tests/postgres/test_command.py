"""``signal-ledger migrate`` on PostgreSQL, run as users do."""

import psycopg
import pytest

from signal_ledger import migration_sql
from signal_ledger_adapters.postgres.schema import migrations
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from tests.cli.program import SECRET, run
from tests.postgres.catalogue import catalogue, differences
from tests.postgres.conftest import install_oban

NEWEST = migrations()[-1].version


def refusal(*arguments, url=None, status):
    """What it says on standard error: no traceback, no password."""
    done = run(*arguments, url=url)
    assert (done.status, done.out) == (status, ""), done.err
    assert "Traceback" not in done.err
    return done.err


@pytest.fixture
async def oban(database):
    await install_oban(database)
    return database


async def test_it_migrates_the_database_that_an_argument_names(oban, cluster, template_of_fresh):
    for _ in range(2):
        done = run("migrate", oban, url="postgresql://nowhere.invalid/none")
        assert (done.status, done.jsonl, done.err) == (0, [{"version": NEWEST}], "")
    assert differences(catalogue(cluster.url(template_of_fresh)), catalogue(oban)) == {}


async def test_it_migrates_the_database_that_the_environment_names(database):
    await install_oban(database, "Our Jobs")
    done = run("migrate", "--schema", "Audit", "--oban-prefix=Our Jobs", url=database)
    assert (done.status, done.jsonl) == (0, [{"version": NEWEST}]), done.err
    assert catalogue(database, "Audit", "Our Jobs")["settings"][0][2:] == ("Our Jobs", False)


async def test_it_prints_the_sql_and_changes_nothing(oban, psql):
    done = run("migrate", oban, "--sql", "--schema=audit")
    assert (done.status, done.out, done.err) == (0, migration_sql(schema="audit"), "")
    with psycopg.connect(oban) as connection:
        assert connection.execute("SELECT to_regnamespace('audit')").fetchone() == (None,)
    psql(oban, done.out)
    assert run("migrate", oban, "--schema=audit").status == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "expected the URL of a database, by --url or in SIGNAL_LEDGER_URL"),
        (("app",), "url: expected a database URL such as postgresql://localhost/app"),
        ((f"postgresql://ada:{SECRET}/app",), "url: expected a database URL such as"),
        ((f"postgresql://ada:{SECRET}@127.0.0.1:1/app?sslmode=nonsense",), "`sslmode` parameter must be one of"),
        (("--sql", "--schema="), "schema: expected the name of a schema, 1 to 63 bytes, got ''"),
        (("postgresql:///app", "--oban-prefix=" + 64 * "x"), "oban_prefix: expected the name of a schema"),
    ],
)
def test_a_wrong_call_is_told_so(arguments, told):
    assert told in refusal("migrate", *arguments, status=2)


async def test_a_database_that_cannot_serve_is_told_so(database):
    assert refusal("migrate", database, status=6).startswith(
        "signal-ledger: there is no table oban_jobs in schema 'public'; install Oban's schema first"
    )


def test_a_database_that_is_not_there_is_told_so(cluster):
    assert refusal("migrate", cluster.url("none"), status=6) == (
        'signal-ledger: InvalidCatalogNameError: database "none" does not exist\n'
    )


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/app",
        f"postgresql://ada:{SECRET}@nowhere.invalid/app",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/app?nonsense=1",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/app?host={SECRET}&host=other",
    ],
)
def test_no_connection_is_told_without_the_password(url):
    told = refusal("migrate", url=url, status=6)
    assert told.startswith("signal-ledger: the database could not be reached: ")
    assert told.count("\n") == 1


def test_a_wrong_password_is_told_without_it():
    with scratch_cluster(durable=False, tcp=True) as cluster:
        right = cluster.url()
        wrong = right.replace(right.partition("postgres:")[2].partition("@")[0], SECRET)
        assert refusal("migrate", wrong, status=6) == (
            'signal-ledger: InvalidPasswordError: password authentication failed for user "postgres"\n'
        )
        assert "there is no table oban_jobs" in refusal("migrate", f"{right}?sslmode=disable", status=6)
