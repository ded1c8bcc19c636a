"""Processes that end with the one that started them, however that ends, and a folder that goes with them.

A shell waits at the end of a pipe. When nobody holds the other end any more, which the kernel sees to even after a
SIGKILL, it ends what was started last and removes the folder. In an orderly end the same pipe closes.
"""

import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 30

# Every line names the process group that runs from now on; an empty one says that none does. PostgreSQL needs up to 5 s
# for an immediate shutdown: then it kills the processes that did not obey.
_WATCH = """
while read -r line; do group=$line; done
if [ -n "$group" ]; then
    kill -s QUIT -- "-$group"
    kill -s CONT -- "-$group"
    tries=200
    while [ "$tries" -gt 0 ] && kill -s 0 -- "-$group"; do
        sleep 0.05
        tries=$((tries - 1))
    done
    kill -s KILL -- "-$group"
fi
rm -rf "$1"
"""

# It names itself before it becomes the program, so there is no instant at which the program runs and is not known.
_LAUNCH = 'log=$1; shift; echo "$$"; exec "$@" >>"$log" 2>&1'


class ClusterError(Exception):
    """A scratch cluster could not be made, started or used; the message says what its log says."""


class Guard:
    """Starts processes in groups of their own, one at a time, and sees to it that none stays behind.

    Args:
        folder: Where they run. It is empty now, is given to the account, and is removed in the end.
        account: Who runs them; None for who runs this.

    Raises:
        OSError: The account cannot be given the folder.
    """

    def __init__(self, folder: Path, account: pwd.struct_passwd | None) -> None:
        self._folder = folder
        self._account = account
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self._environment["LC_ALL"] = "C"  # initdb makes it the locale of the cluster
        try:
            if account is not None:
                os.chown(folder, account.pw_uid, account.pw_gid)
        except OSError:
            folder.rmdir()
            raise
        # No program inherits the pipe; only a fork of this process does, and keeps the server as this one does.
        self._watch = subprocess.Popen(  # noqa: S603 - the script above
            ["/bin/sh", "-c", _WATCH, "sh", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        assert self._watch.stdin is not None  # noqa: S101
        self._pipe = self._watch.stdin

    def launch(self, program: Path, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a program; what it prints is appended to the log.

        Raises:
            ClusterError: The account cannot be used.
        """
        account = self._account
        try:
            return subprocess.Popen(  # noqa: S603 - one of PostgreSQL's programs
                ["/bin/sh", "-c", _LAUNCH, "sh", log, program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._pipe,
                stderr=subprocess.DEVNULL,
                cwd=self._folder,
                env=self._environment,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                # Ctrl-C in a terminal reaches the whole group of this process; the server is stopped by who uses it.
                start_new_session=True,
            )
        except OSError as error:
            as_whom = f" as {account.pw_name}" if account else ""
            raise ClusterError(f"{program} cannot be run{as_whom}: {error}") from error

    def forget(self) -> None:
        """Say that what was launched has ended: its id may become another's."""
        with suppress(BrokenPipeError):
            self._pipe.write(b"\n")
            self._pipe.flush()

    def close(self) -> None:
        """End what still runs and remove the folder."""
        with suppress(BrokenPipeError):
            self._pipe.close()
        try:
            self._watch.wait(_PATIENCE_S)
        finally:
            # Already gone, unless somebody killed the shell.
            shutil.rmtree(self._folder, ignore_errors=True)
