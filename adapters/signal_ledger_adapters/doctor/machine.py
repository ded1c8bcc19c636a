"""The machine that the doctor runs on: what erlpack needs, file systems, and room on the disk."""

import os
import re
import shutil
import sysconfig
from collections.abc import AsyncGenerator
from pathlib import Path

from signal_ledger.codec import decode, encode
from signal_ledger_adapters.doctor.check import Check, finding, in_thread, note, ok, told_bytes

MOUNTS = Path("/proc/mounts")
"""Where Linux lists what is mounted."""

ROOM_FINDING_BYTES = 64 << 20
ROOM_NOTE_BYTES = 1 << 30

_COMPILERS = ("c++", "g++", "clang++")

_OVER_NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.davfs", "fuse.glusterfs"),
        *("fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2"),
        *("orangefs", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "fuse.vmhgfs-fuse", "pvfs2"),
    )
)
_IN_MEMORY = frozenset(("ramfs", "tmpfs"))

# All that the forms on the wire tell apart.
_SPECIMEN = {"text": "ä", b"bytes": b"\0\xff", "list": [None, True, -1, 2**40, 1.5], "tuple": ("a", (), b"")}


async def examine_machine(timeout_s: float) -> AsyncGenerator[Check, None]:
    """Look at what does not depend on the database."""
    for name, look in (("codec", check_codec), ("compiler", check_compiler)):
        try:
            yield await in_thread(look, timeout_s)
        except TimeoutError:
            yield finding(
                name, f"expected an answer within {timeout_s:g} s, got none", "look at the disk of this machine"
            )


def check_codec() -> Check:
    """Check that a payload comes back as it went."""
    advice = "install erlpack anew: pip install --force-reinstall --no-cache-dir erlpack"
    try:
        returned = decode(encode(_SPECIMEN))
    except Exception as error:  # noqa: BLE001 - a broken build may raise anything
        return finding("codec", f"expected erlpack to encode a payload, got {type(error).__name__}", advice)
    if returned != _SPECIMEN:
        return finding("codec", "expected a payload to come back equal, got another one", advice)
    return ok("codec", "payloads come back as they went")


def check_compiler() -> Check:
    """Check whether erlpack, which comes as source only, can be installed here once more."""
    lacking = []
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), *_COMPILERS) if name):
        lacking.append("no C++ compiler")
    if not os.access(Path(sysconfig.get_path("include"), "Python.h"), os.R_OK):
        lacking.append("no headers of Python")
    if not lacking:
        return ok("compiler", "there are a C++ compiler and the headers of Python")
    return note(
        "compiler",
        f"this machine has {' and '.join(lacking)}: erlpack is installed, and could not be installed anew",
        "nothing, unless packages are installed on this machine; then: apt-get install g++ python3-dev",
    )


def check_file_system(folder: Path) -> Check:
    """Check that a folder is on a file system that can do write-ahead logging between processes, and keeps it."""
    kind = file_system_of(folder)
    if kind is None:
        return note(
            "file_system",
            f"the file system of {folder} is not known: {MOUNTS} does not tell",
            "see to it that it is a local one: write-ahead logging is not safe over a network",
        )
    if kind in _OVER_NETWORK:
        return finding(
            "file_system",
            f"{folder} is on {kind}: expected a local file system, since write-ahead logging needs memory that all "
            "processes share",
            "put the file on a local disk, or use PostgreSQL",
        )
    if kind in _IN_MEMORY:
        return note(
            "file_system", f"{folder} is on {kind}: nothing in it outlives the machine", "put the file on a disk"
        )
    if kind.startswith("fuse"):
        return note(
            "file_system", f"{folder} is on {kind}, of which nothing is known", "see to it that it is a local one"
        )
    return ok("file_system", f"{folder} is on {kind}")


def file_system_of(folder: Path) -> str | None:
    """Return the kind of file system that a folder is on; None if that is not known."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    places = {folder, *folder.parents}
    kind, depth = None, -1
    for line in lines:
        _, place, its_kind, *_ = line.split(" ")
        path = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place))
        # Of several in one place, the last one covers the others.
        if path in places and len(path.parts) >= depth:
            kind, depth = its_kind, len(path.parts)
    return kind


def check_room(folder: Path) -> Check:
    """Check that there is room on the disk."""
    free = shutil.disk_usage(folder).free
    told = f"{told_bytes(free)} are free on the disk of {folder}"
    if free < ROOM_FINDING_BYTES:
        return finding(
            "disk_space",
            f"{told}: expected at least {told_bytes(ROOM_FINDING_BYTES)}",
            "make room: signals are refused else",
        )
    if free < ROOM_NOTE_BYTES:
        return note("disk_space", told, "see to it that there is room for the log, which grows for ever")
    return ok("disk_space", told)
