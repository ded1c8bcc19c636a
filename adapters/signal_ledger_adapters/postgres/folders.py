"""Folders for scratch clusters: with a path that fits a socket, and which the server's user can reach."""

import os
import pwd
import shutil
import tempfile
from pathlib import Path

_PREFIX = "signal-ledger-"
_SOCKET_PATH_BYTES_MAX = 103  # macOS; Linux has 107
_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes the name
_MEMORY_BYTES_MIN = 1 << 30


def make_folder(account: pwd.struct_passwd | None, *, in_memory: bool) -> Path:
    """Make a temporary folder.

    Args:
        account: Who must be able to reach it; None for who runs this.
        in_memory: Whether it should be in memory, if that is large enough. Creating and dropping databases one after
            another grows ten times as slow on ext4, which keeps off the inodes of files deleted a moment ago.

    Raises:
        OSError: There is no place for it.
    """
    parents = [Path(parent) for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp")]  # noqa: S108
    if in_memory and _is_roomy_memory():
        parents.insert(0, _MEMORY)
    for parent in parents:
        if _fits_sockets(parent) and parent.is_dir() and (account is None or is_open_to_all(parent)):
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    raise OSError(
        "expected a folder for temporary files which all users can reach and whose path is at most "
        f"{_SOCKET_PATH_BYTES_MAX} bytes long with that of a socket, among {', '.join(map(str, parents))}"
    )


def is_open_to_all(path: Path) -> bool:
    """Say whether every user may enter a folder, through all that lead to it."""
    path = path.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _fits_sockets(parent: Path) -> bool:
    return len(os.fsencode(parent / f"{_PREFIX}01234567" / ".s.PGSQL.65535.lock")) <= _SOCKET_PATH_BYTES_MAX


def _is_roomy_memory() -> bool:
    """Say whether there is room for a cluster, and whether programs may be run there, which containers forbid."""
    return (
        _MEMORY.is_dir()
        and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES_MIN
        and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
    )
