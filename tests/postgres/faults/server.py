"""What happens to servers: they are halted, crash, start again, and lose connections."""

import contextlib
import os
import signal
from pathlib import Path

from tests.postgres.engine.conftest import query


def processes(cluster):
    """The server's first process, and those that it has started."""
    first = cluster.postmaster_pid
    found = [first]
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: the state, and the parent.
            if int(status.read_text().rpartition(")")[2].split()[1]) == first:
                found.append(int(status.parent.name))
    return found


@contextlib.contextmanager
def halted(cluster):
    """A server that stands still: it takes connections in, and answers nothing, nor a cancel."""
    # The first one at once: it starts no others. One that has just ended is no longer there to be halted.
    os.kill(cluster.postmaster_pid, signal.SIGSTOP)
    pids = processes(cluster)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def stand_still(pids):
    """Whether some processes have been halted: all that are still there."""
    states = []
    for pid in pids:
        with contextlib.suppress(OSError):
            states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def crash(cluster):
    """Let the server crash and start again, at once."""
    cluster.stop("immediate")
    cluster.start()


def started_at(url):
    """When the server has started."""
    return query(url, "SELECT pg_postmaster_start_time()")


def terminate(url, condition="true"):
    """End connections to a database from within; return how many."""
    return len(
        query(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND ({condition})",
        )
    )


def connections(url):
    """How many others are connected to a database, and how many locks they hold."""
    [row] = query(
        url,
        "SELECT count(*), (SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) "
        "WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()) "
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'",
    )
    return tuple(row)
