"""What a URL, or libpq's way of saying it, means for the ledger's own connections."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from signal_ledger_adapters.postgres.connection import connected, create_engine, driver_of, to_url, url_of_conninfo
from signal_ledger_adapters.postgres.schema import Names

SHOW = "SELECT current_setting('application_name'), current_setting('work_mem'), current_database()"


async def settings_of(url):
    engine = create_engine(url, Names())
    try:
        async with connected(engine) as connection:
            return tuple(await (await driver_of(connection)).fetchrow(SHOW))
    finally:
        await engine.dispose()


CLIENT_SIDE = (
    "connect_timeout=5 keepalives=1 keepalives_idle=30 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=9000 "
    "channel_binding=prefer gssencmode=disable client_encoding=utf8 fallback_application_name=no sslsni=1 "
    "load_balance_hosts=disable target_session_attrs=read-write sslmode=prefer"
)


async def test_what_libpq_is_told_holds_for_the_ledgers_connections(database):
    name = conninfo_to_dict(database)["dbname"]
    wanted = ("the app's & co", "9MB", name)
    parts = conninfo_to_dict(database)
    conninfo = " ".join(f"{key}='{value}'" for key, value in parts.items())
    conninfo += f" application_name='the app\\'s & co' options='-c work_mem=9MB' {CLIENT_SIDE}"
    assert await settings_of(url_of_conninfo(conninfo)) == wanted
    separator = "&" if "?" in database else "?"
    url = f"{database}{separator}application_name=the%20app%27s%20%26%20co&options=-c%20work_mem%3D9MB&sslmode=prefer"
    assert await settings_of(to_url(url)) == wanted
    assert await settings_of(url_of_conninfo(url)) == wanted


async def test_of_several_hosts_the_first_that_answers_is_taken(database, tmp_path):
    parts = conninfo_to_dict(database)
    host, port = parts.pop("host"), parts.pop("port", "5432")
    conninfo = " ".join(f"{key}='{value}'" for key, value in parts.items())
    [_, _, name] = await settings_of(url_of_conninfo(f"host={tmp_path},{host} port=1,{port} {conninfo}"))
    assert name == parts["dbname"]
    url = f"postgresql://{parts['user']}@/{name}?host={tmp_path},{host}&port=1,{port}"
    assert (await settings_of(to_url(url)))[2] == name


def test_a_password_with_every_kind_of_character_arrives():
    url = url_of_conninfo("host=h user=u dbname=d password='a b%2F@:/?#[]\\'\\\\'")
    assert url.password == "a b%2F@:/?#[]'\\"
    assert url.password not in str(url)


@pytest.mark.parametrize("name", ["jobs%s", "100%", "a {} b", 'quo"ted', "$1::x", "Käse-Lager", "ledger.oban."])
def test_names_are_put_in_as_they_are(name):
    sql = Names(schema=name, oban_prefix="b").put_into("SELECT ledger.store(), oban.oban_jobs")
    quoted = name.replace('"', '""')
    assert sql == f'SELECT "{quoted}".store(), "b".oban_jobs'
