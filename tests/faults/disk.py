"""What a disk may hold after a power cut, from the system calls of a real run.

A disk keeps what was synced; that a file is there, or is not there any more, it keeps once its folder was synced. Of
the rest it may have all, nothing, or any sectors of it, in any order; and what it has failed to sync once it may have
forgotten for good, although the file still shows it.
"""

import json
import random
import re
from dataclasses import dataclass, field

SYSTEM_CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink"
OPTIONS = ("-xx", "-y", "-s", "1000000", "-e", f"trace={SYSTEM_CALLS}")
"""Those of strace, by which `read_log` gets every byte."""

SECTOR_BYTES = 512

_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r"(?:\\x[0-9a-f]{2})+")


@dataclass
class File:
    """A file: what is on the disk for certain, and what was done to it since; None is its deletion."""

    durable: bytes | None
    pending: list = field(default_factory=list)
    is_in_folder: bool = False

    def sync(self, *, fails):
        if not fails:
            self.durable = apply(self.durable, self.pending)
        self.pending = []

    def sync_folder(self):
        deletions = [place for place, change in enumerate(self.pending, 1) if change is None]
        if deletions:
            self.durable, self.pending = None, self.pending[deletions[-1] :]
        self.is_in_folder = bool(self.pending) or self.durable is not None


def apply(content, changes):
    """Return what a file holds after some changes; None if it is not there."""
    for change in changes:
        if change is None:
            content = None
            continue
        offset, written = change
        content = content or b""
        if written is None:
            content = content[:offset].ljust(offset, b"\0")
        else:
            content = content[:offset].ljust(offset, b"\0") + written + content[offset + len(written) :]
    return content


def some(changes, chance):
    """Return some sectors of some changes, in another order."""
    torn = []
    for change in changes:
        if change is None or change[1] is None:
            torn.append(change)
            continue
        offset, written = change
        for start in range(0, len(written), SECTOR_BYTES):
            torn.append((offset + start, written[start : start + SECTOR_BYTES]))
    kept = [change for change in torn if chance.random() < 0.5]
    chance.shuffle(kept)
    return kept


class Disk:
    """The files of a database, as the system calls go by.

    Args:
        path: The database, as it is before.
        notes: Where the process writes down what it was told.
    """

    def __init__(self, path, notes):
        self._notes_path = str(notes)
        self._files = {f"{path}{suffix}": File(None) for suffix in ("", "-wal", "-journal")}
        if path.exists():
            self._files[str(path)] = File(path.read_bytes(), is_in_folder=True)
        self._base = str(path)
        self._folder = str(path.parent)
        self.notes = []

    def moments(self, log):
        """Replay a log, and stop wherever a power cut may matter: before each sync, after each note of an end."""
        for call, place, arguments, result in read_log(log):
            file = self._files.get(place)
            if place == self._notes_path and call == "write":
                self.notes.append(json.loads(arguments[0]))
                if "began" not in self.notes[-1]:
                    yield f"note {len(self.notes)}"
            elif place == self._folder and call in ("fsync", "fdatasync") and result >= 0:
                yield "sync of the folder"
                for each in self._files.values():
                    each.sync_folder()
            elif file is None:
                continue
            elif call in ("fsync", "fdatasync"):
                yield f"{call} of {place[len(self._base) - 2 :]}"
                file.sync(fails=result < 0)
            elif result >= 0 and (call != "openat" or b"O_CREAT" in arguments[0]):
                file.pending.append(_change(call, arguments, result))

    def write_image(self, path, how, seed):
        """Write what the disk may hold now."""
        chance = random.Random(seed)
        for name, file in self._files.items():
            pending = {"kept": file.pending, "dropped": []}.get(how)
            content = apply(file.durable, some(file.pending, chance) if pending is None else pending)
            if how == "dropped" and not file.is_in_folder:
                content = None
            target = path.with_name(path.name + name[len(self._base) :])
            target.unlink(missing_ok=True)
            if content is not None:
                target.write_bytes(content)
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def read_log(log):
    """Yield the system calls of a log: name, file, further arguments, result."""
    begun = {}
    for line in log.read_text().splitlines():
        thread, _, rest = line.partition(" ")
        if line.endswith("<unfinished ...>"):
            # Of two calls at a time; it counts when it ends.
            begun[thread] = line.removesuffix("<unfinished ...>")
            continue
        if thread in begun and rest.lstrip().startswith("<..."):
            line = begun.pop(thread) + line.partition("resumed>")[2]  # noqa: PLW2901 - the whole line
        found = _CALL.match(line)
        if not found:
            continue
        call, text, result = found.groups()
        first, *arguments = [_read(part) for part in text.split(", ")]
        if call == "openat":
            place, *arguments = arguments
        else:
            place = first if call == "unlink" else first.partition(b"<")[2].rstrip(b">")
        yield call, place.decode(), arguments, int(result)


def _read(part):
    # A call that was resumed has a space there.
    part = part.rstrip()
    plain = _TEXT.sub(lambda found: found.group().replace("\\x", ""), part)
    if part.startswith('"'):
        return bytes.fromhex(plain.strip('"'))
    before, bracket, name = plain.partition("<")
    return f"{before}{bracket}".encode() + bytes.fromhex(name.rstrip(">"))


def _change(call, arguments, result):
    if call == "unlink":
        return None
    if call == "openat":
        return 0, b""
    if call == "ftruncate":
        return int(arguments[0]), None
    written, _, offset = arguments
    return int(offset), written[:result]
