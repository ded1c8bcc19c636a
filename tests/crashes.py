"""Crashes of a store in a file: what its processes held is gone."""

import shutil

from signal_ledger_adapters.sqlite.store import SqliteStore


async def cut_power(bench, path):
    """Go on with a copy of the files as they lie on the disk, as after a power cut: what was answered is synced.

    Return where the copy is. Files and copies are named by numbers.
    """
    copy = path.with_name(f"{int(path.stem) + 1}.db")
    for suffix in ("", "-wal"):
        if path.with_name(f"{path.name}{suffix}").exists():
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    await bench.store.close()
    bench.go_on_with(await SqliteStore.open(copy, clock=bench.clock))
    return copy
