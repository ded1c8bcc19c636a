"""A PostgreSQL cluster of one's own: in a temporary folder, ready in half a second, gone without a trace.

For tests, demos and benchmarks. It needs no server, no free port and no rights: started by root, it runs as `nobody`.
"""

import os
import pwd
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from signal_ledger_adapters.postgres.binaries import find_postgres, unpack
from signal_ledger_adapters.postgres.folders import make_folder
from signal_ledger_adapters.postgres.guard import ClusterError, Guard

type StopMode = Literal["fast", "immediate"]

_PATIENCE_S = 60.0
_POLL_S = 0.005
_NAME_BYTES_MAX = 63
_PORT = 5432
_READY = ("ready", "standby")
_SIGNALS: Mapping[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# What survives a crash of the server still does; what survives one of the machine does not.
_CARELESS = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}


@contextmanager
def scratch_cluster(
    version: int | None = None,
    *,
    durable: bool = True,
    tcp: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Generator["Cluster", None, None]:
    """Start a cluster, and end it on the way out. It also ends when this process is killed.

    Args:
        version: The major version; None for the one the environment names, or the newest.
        durable: Whether commits are flushed to disk, as in production; if not, it may live in memory.
        tcp: Whether it listens on a port of 127.0.0.1, and its URLs name that; else on a socket in its folder.
        settings: More lines of its ``postgresql.conf``.

    Raises:
        PostgresMissingError: There is no such PostgreSQL here.
        ClusterError: It could not be started.
    """
    postgres = find_postgres(version)
    # PostgreSQL refuses to run as root.
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    try:
        folder = make_folder(account, in_memory=not durable)
        guard = Guard(folder, account)
    except OSError as error:
        raise ClusterError(f"there is no place for a cluster: {error}") from error
    try:
        programs = unpack(postgres, folder, for_anyone=account is not None)
        cluster = Cluster(programs, postgres.release, folder, guard, tcp=tcp)
        cluster.create({**({} if durable else _CARELESS), **(settings or {})})
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        guard.close()


class Cluster:
    """A running cluster, made by `scratch_cluster`. Its superuser is ``postgres``.

    Attributes:
        version: The major version.
        release: The whole version, such as ``15.18``.
        folder: Where it lives, and its socket.
        port: Its port, also in the socket's name.
        log: The server's log.
    """

    def __init__(self, programs: Path, release: str, folder: Path, guard: Guard, *, tcp: bool) -> None:
        self.version = int(release.partition(".")[0])
        self.release = release
        self.folder = folder
        self.port = _free_port() if tcp else _PORT
        self.log = folder / "log"
        self._programs = programs
        self._data = folder / "data"
        self._guard = guard
        # Other users of this machine reach the port, and a superuser runs programs.
        self._password = secrets.token_hex() if tcp else None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the server's first process runs."""
        return self._server is not None and self._server.poll() is None

    @property
    def postmaster_pid(self) -> int:
        """The id of the server's first process.

        Raises:
            ClusterError: It does not run.
        """
        if self._server is None or not self.is_running:
            raise ClusterError("expected a running server, but it was stopped or has ended by itself")
        return self._server.pid

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, for SQLAlchemy, asyncpg and psycopg alike."""
        if self._password is not None:
            return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{quote(database, safe='')}"
        # The port is named because PGPORT would count otherwise.
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(self.folder))}&port={self.port}"

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database as a copy of one that nobody is connected to, and return its URL.

        Raises:
            ValueError: The name is empty, or has more than 63 bytes.
            psycopg.Error: The database exists, or the template cannot be copied.
        """
        size_bytes = len(name.encode())
        # The server would cut it short, here and in every connection.
        if not 1 <= size_bytes <= _NAME_BYTES_MAX:
            raise ValueError(f"name: expected 1 to {_NAME_BYTES_MAX} bytes, got {size_bytes}")
        self._execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, if it exists, and end all connections to it."""
        self._execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))

    def create(self, settings: Mapping[str, str]) -> None:
        """Make the files of the cluster; `scratch_cluster` does, once."""
        arguments = ["--auth=trust"]
        if self._password is not None:
            password_file = self.folder / "password"
            password_file.write_text(self._password)
            password_file.chmod(0o644)  # the folder is closed to everyone but its owner
            arguments = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password_file}"]
        initdb = self._guard.launch(
            self._programs / "initdb",
            f"--pgdata={self._data}",
            "--username=postgres",
            "--encoding=UTF8",
            "--no-sync",  # of what initdb writes; the server flushes what it writes
            *arguments,
            log=self.log,
        )
        if initdb.wait(_PATIENCE_S) != 0:
            raise ClusterError(f"initdb of PostgreSQL {self.release} failed: {self._said()}")
        self._guard.forget()
        lines = {
            "listen_addresses": "" if self._password is None else "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "32MB",
            **settings,
        }
        # Not as arguments of the server: those could not be altered by a test.
        with (self._data / "postgresql.conf").open("a") as configuration:
            for name, value in lines.items():
                configuration.write(f"{name} = '{value.replace("'", "''")}'\n")

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it accepts connections, after recovery if it needs any.

        Raises:
            ClusterError: It does not start.
        """
        ends = time.monotonic() + _PATIENCE_S
        while not (self.is_running or self._becomes_ready(ends)):
            time.sleep(_POLL_S)

    def stop(self, mode: StopMode = "immediate") -> None:
        """Stop the server, if it runs, and wait until it has ended.

        Args:
            mode: ``immediate`` is a crash: the next start recovers. ``fast`` ends transactions and writes all down.
        """
        if self._server is None:
            return
        self._server.send_signal(_SIGNALS[mode])
        self._server.send_signal(signal.SIGCONT)  # a test may have halted it
        self._server.wait(_PATIENCE_S)
        self._server = None
        self._guard.forget()

    def _becomes_ready(self, ends: float) -> bool:
        """Launch the server; return False if it is too early for that."""
        begins = self.log.stat().st_size
        self._server = self._guard.launch(self._programs / "postgres", "-D", str(self._data), log=self.log)
        while self._server.poll() is None:
            if self._is_ready(self._server.pid):
                return True
            if time.monotonic() > ends:
                raise ClusterError(f"PostgreSQL {self.release} was not ready in time: {self._said(begins)}")
            time.sleep(_POLL_S)
        said = self._said(begins)
        # When the first process was killed, the others need a moment to notice.
        if "is still in use" in said and time.monotonic() < ends:
            return False
        raise ClusterError(f"PostgreSQL {self.release} did not start: {said}")

    def _is_ready(self, pid: int) -> bool:
        """Read the lock file as pg_ctl does: its first line is the process, its eighth the state."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() in _READY

    def _said(self, begins: int = 0) -> str:
        return self.log.read_bytes()[begins:].decode(errors="replace").strip()

    def _execute(self, statement: Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
