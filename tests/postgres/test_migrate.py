"""Installing, checking and upgrading the ledger's schema."""

import asyncio
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from oban._query import Query
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import text

from signal_ledger import SchemaError, migrate, migration_sql, open_ledger
from signal_ledger_adapters.postgres import schema as schema_files
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.schema import Names, migrations
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.postgres.catalogue import catalogue, differences
from tests.postgres.conftest import install_oban

NAMES = [
    pytest.param("Audit", "Jobs", id="capitals"),
    pytest.param("signal ledger", "our jobs", id="spaces"),
    pytest.param('the "log"', "o'ban's", id="quotes"),
    pytest.param("ledger.events", "oban.oban_jobs", id="placeholders"),
    pytest.param("<ledger>", "<'oban'>", id="other placeholders"),
    pytest.param("a$$b", "$ledger$ c", id="dollars"),
    pytest.param("100% {schema}", "%s {0}", id="formats"),
    pytest.param(":name", "a\\b\\'", id="colons and backslashes"),
    pytest.param("select", "table", id="keywords"),
    pytest.param("é" * 31 + "x", "o" * 63, id="63 bytes"),
]


def run(url, statement, *parameters):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else None


def database_of(url):
    return psycopg.conninfo.conninfo_to_dict(url)["dbname"]


async def refusal(url, names=None, **options):
    """Why a ledger cannot be opened: the same by a store and, for a ledger where it is looked for, by open_ledger."""
    names = names or Names()
    with pytest.raises(SchemaError) as refused:
        await PostgresStore.open(to_url(url), names, **options)
    if "belongs to Oban's prefix" not in str(refused.value):
        with pytest.raises(SchemaError, match=re.escape(str(refused.value))):
            async with open_ledger(url, schema=names.schema, **options):
                pass
    return str(refused.value)


async def works(url, schema, oban):
    """Insert a job, signal it, cancel it, and look at what the log says."""
    insert = SQL("INSERT INTO {}.oban_jobs (worker) VALUES ('w') RETURNING id").format(Identifier(oban))
    [[job_id]] = run(url, insert)
    async with open_ledger(url, schema=schema) as ledger:
        receipt = await ledger.signal(job_id, {"n": 1}, key="k")
        assert receipt.outcome == "buffered"
        run(url, SQL("UPDATE {}.oban_jobs SET state = 'cancelled'").format(Identifier(oban)))
        assert [event.kind async for event in ledger.events()] == ["delivered", "closed"]
        assert (await ledger.state(job_id)).status == "closed"
        assert await ledger.waiting() == await ledger.outbox() == []
        report = await ledger.verify()
        assert report.ok, str(report)
        assert await ledger.rebuild() == 1


@pytest.fixture
async def oban(database):
    """The URL of a database with Oban's tables and no ledger."""
    await install_oban(database)
    return database


@pytest.fixture
async def installed(oban):
    """One with a ledger as well."""
    assert await migrate(oban) == migrations()[-1].version
    return oban


@pytest.fixture
def fresh(cluster, template_of_fresh):
    """What a fresh installation looks like."""
    return catalogue(cluster.url(template_of_fresh))


async def test_a_second_migration_changes_nothing(installed):
    before = catalogue(installed)
    [[id_before]] = run(installed, "SELECT id FROM signal_ledger.settings")
    [[changed]] = run(installed, "SELECT pg_current_xact_id()::text::bigint")
    assert await migrate(installed) == migrations()[-1].version
    assert differences(before, catalogue(installed)) == {}
    assert run(installed, "SELECT id FROM signal_ledger.settings") == [(id_before,)]
    # Not even the same again: whoever starts with it waits for nobody.
    rewritten = "SELECT count(*) FROM pg_proc WHERE xmin::text::bigint >= %s"
    assert run(installed, rewritten, changed) == [(0,)]


async def test_a_migration_that_has_nothing_to_do_waits_for_no_transaction(installed):
    async with await psycopg.AsyncConnection.connect(installed) as busy:
        await busy.execute("INSERT INTO oban_jobs (worker) VALUES ('w')")
        await asyncio.wait_for(migrate(installed), 30)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_migrations_at_once_are_one(oban, isolation):
    run(oban, f"ALTER DATABASE {database_of(oban)} SET default_transaction_isolation = '{isolation}'")
    assert set(await asyncio.gather(*[migrate(oban) for _ in range(8)])) == {migrations()[-1].version}
    assert run(oban, "SELECT count(*) FROM signal_ledger.settings") == [(1,)]
    run(oban, f"ALTER DATABASE {database_of(oban)} RESET default_transaction_isolation")
    await works(oban, "signal_ledger", "public")


@pytest.mark.parametrize("how", ["migrate", "psql"])
@pytest.mark.parametrize(("schema", "prefix"), NAMES)
async def test_any_name_will_do(database, psql, schema, prefix, how):
    await install_oban(database, prefix)
    if how == "migrate":
        await migrate(database, schema=schema, oban_prefix=prefix)
    else:
        psql(database, migration_sql(schema=schema, oban_prefix=prefix))
    await migrate(database, schema=schema, oban_prefix=prefix)
    await works(database, schema, prefix)


async def test_a_backslash_is_one_whatever_the_database_says(database, psql):
    run(database, f"ALTER DATABASE {database_of(database)} SET standard_conforming_strings = off")
    await install_oban(database, "a\\'b")
    psql(database, migration_sql(schema="\\", oban_prefix="a\\'b"))
    await migrate(database, schema="\\", oban_prefix="a\\'b")
    await works(database, "\\", "a\\'b")


async def test_a_long_prefix_costs_the_notifications_only(database):
    """PostgreSQL's channels have 63 bytes at most, and Oban's begin with the prefix."""
    prefix = "p" * 45
    await install_oban(database, prefix)
    await migrate(database, oban_prefix=prefix)
    [[job_id]] = run(database, f"INSERT INTO {prefix}.oban_jobs (worker) VALUES ('w') RETURNING id")
    run(
        database,
        f"SELECT signal_ledger.wake(ARRAY[{job_id}::bigint], now()), signal_ledger.hint(ARRAY[{job_id}::bigint])",
    )


@pytest.mark.parametrize("name", ["", "é" * 32, "nul\0"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="schema: expected the name of a schema, 1 to 63 bytes"):
        migration_sql(schema=name)
    with pytest.raises(ValueError, match="oban_prefix: expected the name of a schema, 1 to 63 bytes"):
        migration_sql(oban_prefix=name)


# What is refused, and what it says to do about it.


async def test_a_database_without_oban_is_refused(database, psql):
    told = (
        "there is no table oban_jobs in schema 'public'; install Oban's schema first, or say where it is: oban_prefix= "
        "(--oban-prefix)"
    )
    with pytest.raises(SchemaError) as refused:
        await migrate(database)
    assert str(refused.value) == told
    with pytest.raises(subprocess.CalledProcessError) as failed:
        psql(database, migration_sql())
    assert told in failed.value.stderr
    assert run(database, "SELECT to_regnamespace('signal_ledger')") == [(None,)]


async def test_a_missing_schema_is_refused(oban):
    assert await refusal(oban, Names(schema="audit")) == (
        "the ledger's schema 'audit' is missing; run migrate(url, schema='audit', oban_prefix='public') or "
        "`signal-ledger migrate --schema audit`"
    )


async def test_a_newer_schema_is_refused(installed):
    run(installed, "UPDATE signal_ledger.settings SET version = 99")
    known = migrations()[-1].version
    told = f"the ledger's schema 'signal_ledger' has version 99, this library knows {known}; upgrade the library"
    assert await refusal(installed) == told
    with pytest.raises(SchemaError, match=re.escape(told)):
        await migrate(installed)
    assert run(installed, "SELECT version FROM signal_ledger.settings") == [(99,)]


async def test_the_schema_of_another_oban_is_refused(installed):
    await install_oban(installed, "billing")
    told = (
        "the ledger's schema 'signal_ledger' belongs to Oban's prefix 'public', expected 'billing'; "
        "use another schema= (--schema) for it"
    )
    assert await refusal(installed, Names(oban_prefix="billing")) == told
    with pytest.raises(SchemaError, match=re.escape(told)):
        await migrate(installed, oban_prefix="billing")
    await migrate(installed, schema="billing ledger", oban_prefix="billing")
    await works(installed, "billing ledger", "billing")
    await works(installed, "signal_ledger", "public")


async def test_a_second_ledger_for_an_oban_is_refused(installed, psql):
    """Its triggers would replace those of the first one, which would learn of no end any more."""
    before = catalogue(installed)
    told = (
        "the Oban in schema 'public' has a ledger, in schema 'signal_ledger'; use schema='signal_ledger' (--schema) "
        "for it, or drop that one first, and its log with it"
    )
    with pytest.raises(SchemaError, match=re.escape(told)):
        await migrate(installed, schema="second")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        psql(installed, migration_sql(schema="second"))
    assert told in failed.value.stderr
    assert differences(before, catalogue(installed)) == {}
    run(installed, "DROP SCHEMA signal_ledger CASCADE")
    await migrate(installed, schema="second")
    await works(installed, "second", "public")


@pytest.mark.parametrize("testing", [True, False])
async def test_whether_it_is_for_testing_cannot_be_changed(oban, testing):
    await migrate(oban, testing=testing)
    before = catalogue(oban)
    with pytest.raises(
        SchemaError, match=f"was made with testing={testing}, expected testing={not testing}; that cannot be changed"
    ):
        await migrate(oban, testing=not testing)
    await migrate(oban, testing=testing)
    assert differences(before, catalogue(oban)) == {}


async def test_functions_of_another_release_are_refused(installed):
    run(installed, "UPDATE signal_ledger.settings SET functions = 'those of another release'")
    told = await refusal(installed)
    assert told == (
        "the ledger's schema 'signal_ledger' has the functions of another release of this library: if this process is "
        "the newer one, run migrate(url, schema='signal_ledger', oban_prefix='public') or "
        "`signal-ledger migrate`; if the schema was upgraded, start the new release, and do not migrate back"
    )
    assert await refusal(installed, read_only=True) == told


async def test_a_schema_that_was_renamed_is_refused_until_it_is_migrated(installed):
    """Its functions still name the old one."""
    run(installed, "ALTER SCHEMA signal_ledger RENAME TO audit")
    assert "has the functions of another release" in await refusal(installed, Names(schema="audit"))
    await migrate(installed, schema="audit")
    await works(installed, "audit", "public")


@pytest.mark.parametrize(
    ("fault", "missing"),
    [
        ("DROP TRIGGER signal_ledger_moved ON oban_jobs", "signal_ledger_moved"),
        ("ALTER TABLE oban_jobs DISABLE TRIGGER signal_ledger_deleted", "signal_ledger_deleted"),
        ("ALTER TABLE oban_jobs ENABLE REPLICA TRIGGER signal_ledger_deleted", "signal_ledger_deleted"),
    ],
)
async def test_missing_triggers_are_refused_and_made_up_for(installed, fault, missing):
    before = catalogue(installed)
    run(installed, fault)
    assert f"has no working triggers {missing} on Oban's table; run migrate(" in await refusal(installed)
    await (await PostgresStore.open(to_url(installed), Names(), read_only=True)).close()
    await migrate(installed)
    assert differences(before, catalogue(installed)) == {}


async def test_tables_that_oban_makes_anew_get_their_triggers_by_a_migration(installed):
    async with AsyncConnectionPool(installed, min_size=1, open=False) as pool:
        await Query(pool).uninstall()
        assert "there is no table oban_jobs in schema 'public'" in await refusal(installed)
        # What was, can still be read (promise L6).
        async with open_ledger(installed, read_only=True) as ledger:
            assert (await ledger.verify()).ok
        await Query(pool).install()
    assert "has no working triggers signal_ledger_cancel_requested, signal_ledger_changes," in await refusal(installed)
    await migrate(installed)
    await works(installed, "signal_ledger", "public")


async def test_a_user_without_the_rights_is_told(cluster, installed):
    run(installed, "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN")
    as_guest = installed.replace("postgres@", "guest@")
    with pytest.raises(SchemaError, match=r"permission denied for schema signal_ledger; ask its owner for the right"):
        await migrate(as_guest)
    assert "permission denied for schema signal_ledger; ask its owner for the right" in await refusal(as_guest)


async def test_an_owner_of_oban_for_whom_somebody_made_the_schema_can_migrate(oban):
    run(oban, "DROP ROLE IF EXISTS owner; CREATE ROLE owner LOGIN")
    run(oban, "CREATE SCHEMA signal_ledger AUTHORIZATION owner; ALTER TABLE oban_jobs OWNER TO owner")
    await migrate(oban.replace("postgres@", "owner@"))
    run(oban, "REASSIGN OWNED BY owner TO postgres")
    await works(oban, "signal_ledger", "public")


# The SQL for migrations of one's own.


@pytest.mark.parametrize("how", ["psql", "psycopg", "SQLAlchemy"])
async def test_the_printed_sql_installs_what_migrate_does(oban, fresh, psql, how):
    if how == "psql":
        psql(oban, migration_sql())
    elif how == "psycopg":
        run(oban, migration_sql())
    else:
        # Alembic's op.execute() takes words behind a colon for parameters.
        assert text(migration_sql()).compile().params == {}
        return
    assert differences(fresh, catalogue(oban)) == {}
    await works(oban, "signal_ledger", "public")


async def test_the_printed_sql_leaves_nothing_behind_when_it_fails(installed, psql):
    before = catalogue(installed)
    with pytest.raises(subprocess.CalledProcessError, match="psql"):
        psql(installed, migration_sql())
    assert differences(before, catalogue(installed)) == {}


# Upgrades.


def released():
    """The SQL of each released version, as it was; the newest one in several conditions.

    When there is another one, its predecessor's whole `migration_sql()` is put into the folder ``released``.
    """
    newest = migration_sql()
    body = re.search(r"CREATE OR REPLACE FUNCTION \"signal_ledger\"\.wake\(.*?\$\$;", newest, re.DOTALL)[0]
    return {
        **{path.stem: path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "released").iterdir()},
        "4": newest,
        "4, with another body": newest.replace(body, body.replace("'available'", "'retryable'")),
        "4, with a function more": newest + body.replace(".wake(", ".awaken("),
        "4, with a trigger more": newest + 'CREATE TRIGGER old BEFORE INSERT ON "signal_ledger".events FOR EACH ROW '
        'EXECUTE FUNCTION "signal_ledger".append_in_turn();\n'
        'CREATE TRIGGER signal_ledger_old BEFORE INSERT ON "public".oban_jobs FOR EACH ROW '
        'EXECUTE FUNCTION "signal_ledger".job_changes();',
        "4, with a function less": newest.replace(body, ""),
        "4, with another result": newest.replace(body, body.replace("RETURNS void", "RETURNS bigint")),
        "4, with other names of parameters": newest.replace(body, body.replace("job_ids bigint[]", "jobs bigint[]")),
        "4, with other types of parameters": newest.replace(body, body.replace("moment timestamptz", "moment date")),
        "4, with a procedure in its place": newest.replace(
            body, 'CREATE PROCEDURE "signal_ledger".wake(bigint[], timestamptz) LANGUAGE sql AS $$ SELECT $$;'
        ),
    }


@pytest.mark.parametrize("release", released())
async def test_an_upgraded_schema_is_a_fresh_one(oban, fresh, release):
    run(oban, released()[release])
    run(oban, "UPDATE signal_ledger.settings SET functions = %s", f"those of release {release}")
    was_fresh = differences(fresh, catalogue(oban)).keys() == {"settings"}
    assert was_fresh == (release == "4")
    [[ledger_id]] = run(oban, "SELECT id FROM signal_ledger.settings")
    await migrate(oban)
    assert differences(fresh, catalogue(oban)) == {}
    assert run(oban, "SELECT id FROM signal_ledger.settings") == [(ledger_id,)]
    await works(oban, "signal_ledger", "public")


def test_every_released_version_is_upgraded_from():
    """A released step never changes; there is an old schema in `released` for each but the newest."""
    assert {name.partition(",")[0] for name in released()} == {str(step.version) for step in migrations()}


async def test_what_was_granted_on_a_function_stays(installed):
    run(installed, "REVOKE EXECUTE ON FUNCTION signal_ledger.rebuild FROM public")
    before = catalogue(installed)
    run(installed, "UPDATE signal_ledger.settings SET functions = 'those of another release'")
    await migrate(installed)
    assert differences(before, catalogue(installed)) == {}


async def test_an_upgrade_keeps_the_log(installed):
    await works(installed, "signal_ledger", "public")
    events = run(installed, "SELECT * FROM signal_ledger.events ORDER BY position")
    run(installed, "UPDATE signal_ledger.settings SET functions = 'those of another release'")
    await migrate(installed)
    assert run(installed, "SELECT * FROM signal_ledger.events ORDER BY position") == events


@pytest.mark.parametrize("release", ["1", "2", "3"])
async def test_what_an_older_release_has_written_goes_on(oban, psql, release):
    psql(oban, released()[release])
    [[job_id]] = run(oban, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
    run(oban, "SELECT signal_ledger.signal(%s, '\\x836a', key => 'before')", job_id)
    await migrate(oban)
    async with open_ledger(oban) as ledger:
        assert (await ledger.signal(job_id, {"n": 1}, key="after")).version == 2
        run(oban, "UPDATE oban_jobs SET state = 'cancelled'")
        assert [event.schema_version for event in await ledger.history(job_id)] == [1, 1, 1]
        report = await ledger.verify()
        assert report.ok, str(report)


async def test_an_upgrade_of_a_running_system_waits_for_its_transactions_and_deadlocks_with_none(installed):
    """A delivery has locked its job, and then writes to the log and to the job; the upgrade goes in between."""
    [[job_id]] = run(installed, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
    run(installed, "UPDATE signal_ledger.settings SET functions = 'those of another release'")
    async with await psycopg.AsyncConnection.connect(installed) as delivery:
        await delivery.execute("SELECT FROM oban_jobs WHERE id = %s FOR NO KEY UPDATE", [job_id])
        upgrade = asyncio.create_task(migrate(installed))
        await until_waiting(installed, "relation")
        await delivery.execute("SELECT signal_ledger.close(%s, 'cancelled', 0, 0)", [job_id])
        await delivery.execute("UPDATE oban_jobs SET state = 'cancelled' WHERE id = %s", [job_id])
        await delivery.commit()
        await upgrade
    [[deadlocks]] = run(installed, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0
    await works(installed, "signal_ledger", "public")


# Indexes on a large log.


async def test_new_indexes_are_made_while_others_write(oban, fresh):
    """Somebody has written and not committed: the indexes wait for them, and nobody for the indexes."""
    run(oban, released()["2"])
    [[job_id]] = run(oban, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
    signal = "SELECT signal_ledger.signal(%s, '\\x836a', key => %s)"
    async with await psycopg.AsyncConnection.connect(oban) as delivery:
        await delivery.execute(signal, [job_id, "first"])
        upgrade = asyncio.create_task(migrate(oban))
        await until_waiting(oban, "virtualxid")
        assert run(oban, "SELECT version FROM signal_ledger.settings") == [(2,)]
        await delivery.execute(signal, [job_id, "second"])
        async with await psycopg.AsyncConnection.connect(oban, autocommit=True) as other:
            [[other_id]] = run(oban, "INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
            await other.execute("SET lock_timeout = '1s'")
            await other.execute(signal, [other_id, "third"])
        await delivery.commit()
        await upgrade
    assert differences(fresh, catalogue(oban)) == {}
    async with open_ledger(oban) as ledger:
        assert [event.key async for event in ledger.events()] == ["first", "second", "third"]


async def test_an_index_that_was_left_half_made_is_made_anew(oban, fresh):
    run(oban, released()["2"])
    run(oban, "CREATE INDEX events_source ON signal_ledger.events (source)")
    run(oban, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'signal_ledger.events_source'::regclass")
    await migrate(oban)
    assert differences(fresh, catalogue(oban)) == {}


async def test_a_migration_that_is_refused_has_made_no_indexes(oban):
    run(oban, released()["2"])
    with pytest.raises(SchemaError, match="was made with testing=False, expected testing=True"):
        await migrate(oban, testing=True)
    assert run(oban, "SELECT to_regclass('signal_ledger.events_source')") == [(None,)]


async def test_upgrades_at_once_are_one(oban, fresh):
    run(oban, released()["2"])
    assert set(await asyncio.gather(*[migrate(oban) for _ in range(4)])) == {migrations()[-1].version}
    assert differences(fresh, catalogue(oban)) == {}


async def until_waiting(url, kind):
    from tests.eventually import eventually

    waiting = (
        "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) "
        "WHERE NOT l.granted AND l.locktype = %s AND a.datname = current_database()"
    )
    await eventually(lambda: run(url, waiting, kind)[0][0] > 0, what=f"somebody waits for a {kind}")


# A migration that fails.


@pytest.mark.parametrize(
    "fault",
    [
        # A thing of the same name, found when half is done.
        "CREATE SCHEMA signal_ledger CREATE TABLE repairs (mine text)",
        # A right that is missing at the end.
        (
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
            "'BEGIN RAISE EXCEPTION $m$no more triggers$m$; END'; "
            "CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION refuse()"
        ),
    ],
)
async def test_a_migration_that_fails_leaves_nothing_behind(oban, fault):
    run(oban, fault)
    counts = "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_trigger)"
    before = run(oban, counts)
    with pytest.raises(Exception, match=r'relation "repairs" already exists|no more triggers'):
        await migrate(oban)
    assert run(oban, counts) == before
    run(oban, "DROP SCHEMA IF EXISTS signal_ledger CASCADE; DROP EVENT TRIGGER IF EXISTS refuse")
    await migrate(oban)
    await works(oban, "signal_ledger", "public")


def test_the_triggers_that_are_looked_for_are_all_there_are(fresh):
    assert {name for name, _, text in fresh["triggers"] if " ON public.oban_jobs " in text} == schema_files.triggers()
    assert len(schema_files.triggers()) >= 5
