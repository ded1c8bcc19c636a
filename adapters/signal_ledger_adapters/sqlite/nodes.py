"""Which engines are alive: each holds a lock on a byte of a file beside the database, which dies with its process.

Locks of `fcntl` belong to a process, so they neither pass to a fork nor outlive a SIGKILL, and they are seen from other
containers on the same kernel, where process ids would lie. Two traps come with them and are met here: closing any
descriptor of the file drops all locks of the process on it, and a process never conflicts with itself. So there is one
descriptor for each file, and what this process holds is known without asking the kernel.
"""

import fcntl
import os
import threading
from pathlib import Path

_lock = threading.Lock()
_files: dict[tuple[int, int], "_LockFile"] = {}


class _LockFile:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.held: set[int] = set()
        self.process = os.getpid()


def hold(path: Path, node: int) -> None:
    """Hold the lock of a node for as long as this process lives, or until `release`.

    Args:
        path: The database; the locks are on ``<path>-nodes``.
        node: The node's id, the offset of its byte.
    """
    with _lock:
        lock_file = _open(path)
        fcntl.lockf(lock_file.descriptor, fcntl.LOCK_EX, 1, node)
        lock_file.held.add(node)


def release(path: Path, node: int) -> None:
    """Let go of a node's lock."""
    with _lock:
        lock_file = _open(path)
        lock_file.held.discard(node)
        fcntl.lockf(lock_file.descriptor, fcntl.LOCK_UN, 1, node)


def is_gone(path: Path, node: int) -> bool:
    """Say whether the process of a node has ended, or its engine was closed."""
    with _lock:
        lock_file = _open(path)
        if node in lock_file.held:
            return False
        try:
            fcntl.lockf(lock_file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, node)
        except (BlockingIOError, PermissionError):
            return False
        fcntl.lockf(lock_file.descriptor, fcntl.LOCK_UN, 1, node)
        return True


def _open(path: Path) -> _LockFile:
    """Return the one descriptor of the lock file. It stays open until the process ends."""
    name = path.with_name(f"{path.name}-nodes")
    try:
        status = name.stat()
        known = _files.get((status.st_dev, status.st_ino))
    except FileNotFoundError:
        known = None
    if known is None:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        status = os.fstat(descriptor)
        known = _files[status.st_dev, status.st_ino] = _LockFile(descriptor)
    if known.process != os.getpid():
        # A fork has the descriptor but none of the locks.
        known.process = os.getpid()
        known.held.clear()
    return known
