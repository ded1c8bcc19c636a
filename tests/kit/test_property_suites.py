"""The property suites run against any database, and leave nothing behind in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from oban.schema import install_sql

from property_tests.sites import stores_at
from tests.postgres.conftest import cluster

__all__ = ["cluster"]

ROOT = Path(__file__).resolve().parents[2]

THINGS = """
SELECT 'schema ' || nspname FROM pg_namespace
UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace
UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc
UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE typnamespace <> 'pg_toast'::regnamespace
UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger
UNION ALL SELECT 'role ' || rolname FROM pg_roles
ORDER BY 1
"""


def play(url, *arguments):
    """Run the suites at a glance, and return what pytest printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COVERAGE", "PYTEST", "CI"))}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=few"),
            *("property_tests/test_stores.py", "property_tests/test_flow.py", f"--signal-ledger-url={url}", *arguments),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def url(cluster):
    """A database that holds an Oban's tables and a job."""
    url = cluster.create_database("suites")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(install_sql())
        connection.execute("INSERT INTO oban_jobs (worker) VALUES ('app.Worker')")
    yield url
    cluster.drop_database("suites")


def things(url):
    with psycopg.connect(url) as connection:
        jobs = connection.execute("SELECT id, worker, state::text FROM oban_jobs").fetchall()
        return jobs, [name for [name] in connection.execute(THINGS).fetchall()]


@pytest.mark.timeout(900)
def test_on_postgresql_they_have_schemas_of_their_own_for_as_long_as_they_run(url):
    before = things(url)
    printed = play(url)
    assert re.search(r"^2 passed", printed, re.MULTILINE), printed
    assert things(url) == before


def schemas(url):
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^signal_ledger_test_'").fetchall()


def test_the_schemas_are_there_meanwhile_and_go_with_an_error_too(url):
    before = things(url)
    with pytest.raises(ZeroDivisionError), stores_at(url) as stores:
        names = stores.site.names
        assert sorted(schemas(url)) == sorted([(names.schema,), (names.oban_prefix,)])
        with stores_at(url) as others:
            assert others.site.names != names
            assert len(schemas(url)) == 4
        raise ZeroDivisionError
    assert things(url) == before


@pytest.mark.timeout(900)
def test_on_sqlite_they_have_files_beside_the_one_that_is_named(tmp_path):
    kept = tmp_path / "kept.db"
    kept.write_bytes(b"no database")
    printed = play(f"sqlite:///{kept}")
    assert re.search(r"^2 passed", printed, re.MULTILINE), printed
    assert [path.name for path in tmp_path.iterdir()] == ["kept.db"]
    assert kept.read_bytes() == b"no database"


def test_files_are_put_into_the_folder_that_is_named(tmp_path):
    with stores_at(f"sqlite:///{tmp_path}/kept.db") as stores:
        assert Path(stores.parent) == tmp_path


def test_who_may_not_create_schemas_is_told_so(cluster, url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN")
    before = things(url)
    guest = psycopg.conninfo.make_conninfo(url, user="guest")
    parts = psycopg.conninfo.conninfo_to_dict(guest)
    printed = play(f"postgresql://guest@/suites?host={parts['host']}&port={parts['port']}")
    assert "--signal-ledger-url: expected the right to create schemas in database 'suites', user 'guest'" in printed
    assert "GRANT CREATE ON DATABASE suites TO guest" in printed
    assert "Traceback" not in printed
    assert things(url) == before


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://localhost/db", "expected sqlite:///... or postgresql://..., got mysql://"),
        ("sqlite:////nowhere/at/all/signals.db", "there is no /nowhere/at/all"),
        ("postgresql://localhost:1/nowhere?password=s3cret", "expected a database that answers"),
    ],
)
def test_a_url_that_leads_nowhere_is_told(url, told):
    printed = play(url)
    assert "--signal-ledger-url: expected " in printed
    assert told in printed
    assert "s3cret" not in printed
