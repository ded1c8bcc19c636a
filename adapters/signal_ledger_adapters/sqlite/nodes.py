"""Which engines are alive: each holds a lock on a byte of a file beside the database, which dies with its process.

Locks of `fcntl` belong to a process, so they neither pass to a fork nor outlive a SIGKILL, and they are seen from other
containers on the same kernel, where process ids would lie. Two traps come with them and are met here: closing any
descriptor of the file drops all locks of the process on it, and a process never conflicts with itself. So there is one
descriptor for each file, and what this process holds is known without asking the kernel.
"""

import fcntl
import os
import threading
import time
from pathlib import Path

GRACE_S = 5.0
"""How long nobody is thought gone after the lock file was made anew: the others must find it and lock it first."""

_FIRST_NODE = 1

_lock = threading.Lock()
_files: dict[tuple[int, int], "_LockFile"] = {}
_latest: dict[Path, "_LockFile"] = {}

# What is in a lock file that was made anew. The first one is empty.
_MADE_ANEW = b"made anew"


class _LockFile:
    def __init__(self, descriptor: int, trusted_from: float) -> None:
        self.descriptor = descriptor
        self.trusted_from = trusted_from
        self.held: set[int] = set()
        self.process = os.getpid()


def hold(path: Path, node: int) -> None:
    """Hold the lock of a node for as long as this process lives, or until `release`.

    Args:
        path: The database; the locks are on ``<path>-nodes``.
        node: The node's id, the offset of its byte.
    """
    with _lock:
        # The first node makes the file with the database; a later one that has to make it finds that it was deleted.
        _hold(_open(path, is_first=node == _FIRST_NODE), node)


def release(path: Path, node: int) -> None:
    """Let go of a node's lock. Where it is held, not where it would be taken now: the folder may be gone."""
    with _lock:
        lock_file = _latest.get(path)
        if lock_file is not None and lock_file.process == os.getpid():
            lock_file.held.discard(node)
            fcntl.lockf(lock_file.descriptor, fcntl.LOCK_UN, 1, node)


def is_gone(path: Path, node: int) -> bool:
    """Say whether the process of a node has ended, or its engine was closed.

    To be asked of the own nodes as well, every second: if somebody has deleted the file, they are held in a new one.
    """
    with _lock:
        lock_file = _open(path)
        if node in lock_file.held or time.monotonic() < lock_file.trusted_from:
            return False
        try:
            fcntl.lockf(lock_file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, node)
        except (BlockingIOError, PermissionError):
            return False
        fcntl.lockf(lock_file.descriptor, fcntl.LOCK_UN, 1, node)
        return True


def _open(path: Path, *, is_first: bool = False) -> _LockFile:
    """Return the one descriptor of the lock file, with this process's locks held. It stays open until that ends."""
    name = path.with_name(f"{path.name}-nodes")
    try:
        status = name.stat()
        known = _files.get((status.st_dev, status.st_ino))
    except FileNotFoundError:
        known = None
    if known is None:
        known = _make(name, is_first=is_first)
    if known.process != os.getpid():
        # A fork has the descriptor but none of the locks.
        known.process = os.getpid()
        known.held.clear()
    former = _latest.get(path, known)
    _latest[path] = known
    if former is not known and former.process == os.getpid():
        for node in former.held:
            _hold(known, node)
    return known


def _make(name: Path, *, is_first: bool) -> _LockFile:
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if not is_first:
            os.write(descriptor, _MADE_ANEW)
    except FileExistsError:
        descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    age_s = max(0.0, time.time() - status.st_mtime) if status.st_size else GRACE_S
    made = _LockFile(descriptor, time.monotonic() + GRACE_S - age_s)
    _files[status.st_dev, status.st_ino] = made
    return made


def _hold(lock_file: _LockFile, node: int) -> None:
    fcntl.lockf(lock_file.descriptor, fcntl.LOCK_EX, 1, node)
    lock_file.held.add(node)
