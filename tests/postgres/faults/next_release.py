"""The next release of this library, planted: a copy of the source with one more migration, that writes version 3.

It changes what a release that changes the columns of events has to: see `signal_ledger.upcast`. Its processes run in a
folder of their own, beside those of this release.
"""

import asyncio
import contextlib
import os
import re
import sys

from tests.mutants.planting import plant

_FUNCTIONS = "adapters/signal_ledger_adapters/postgres/functions"

_MIGRATION = """
-- A column that is new, in the log and beside it.
ALTER TABLE ledger.events ADD COLUMN note text;
ALTER TABLE ledger.outbox ADD COLUMN note text;
DROP INDEX ledger.waits_newer;
CREATE INDEX waits_newer ON ledger.waits (job_id) WHERE schema_version > 3;
"""

# In the database's functions: what each becomes, and how often it is there.
_RAISED = [
    (r"AS \$\$ SELECT 2 \$\$", "AS $$ SELECT 3 $$", 1),
    (r"event\.schema_version := 1;", "event.schema_version := 3;", 1),
    # From version 2 on the columns of steps are in the byte form, too. That goes by the event's own version: a call
    # that is under way while the functions are replaced goes on with its old text, and finds this function new.
    (
        r"(\(outcome\) \|\| ledger\.netstring\(payload_digest\)), 'UTF8'",
        r"\1 || CASE WHEN schema_version > 2 THEN '-,-,' ELSE '' END, 'UTF8'",
        1,
    ),
    (r"'(delivered|closed)', 1, ", r"'\1', 3, ", 6),
    (r"coalesce\(t\.schema_version, 1\)", "3", 1),
    # Where a stored state goes on without being folded.
    (r"SET version = state\.version, ", "SET schema_version = 3, version = state.version, ", 1),
    (r"SET version = w\.version \+ 1, ", "SET schema_version = 3, version = w.version + 1, ", 1),
    (r"SET\s+version = excluded\.version, recorded", "SET schema_version = 3, version = excluded.version, recorded", 1),
]


class NextRelease:
    def __init__(self, folder):
        self._folder = folder
        self._environment = plant([], folder)
        (folder / "adapters/signal_ledger_adapters/postgres/migrations/0005_notes.sql").write_text(_MIGRATION)
        self._change("ledger/signal_ledger/stored.py", [("SCHEMA_VERSION = 2\n", "SCHEMA_VERSION = 3\n", 1)])
        texts = {path: path.read_text() for path in sorted((folder / _FUNCTIONS).glob("*.sql"))}
        for pattern, new, expected in _RAISED:
            found = 0
            for path, text in texts.items():
                texts[path], times = re.subn(pattern, new, text)
                found += times
            assert found == expected, f"{pattern} is there {found} times, expected {expected}"
        for path, text in texts.items():
            path.write_text(text)

    def _change(self, name, changes):
        path = self._folder / name
        text = path.read_text()
        for old, new, times in changes:
            assert text.count(old) == times
            text = text.replace(old, new)
        path.write_text(text)

    def running(self, role, *arguments):
        """Start a process of it; see `a_process`."""
        return a_process(role, *arguments, cwd=self._folder, environment=self._environment)


@contextlib.asynccontextmanager
async def a_process(role, *arguments, cwd=None, environment=None):
    """Start a process that plays a role of `releases`, and yield it when it says that it is ready, or done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.postgres.faults.releases", role, *map(str, arguments)),
        cwd=cwd,
        env=environment or {**os.environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        process.said = (await process.stdout.readline()).decode().strip()
        assert process.said, f"{role} has failed"
        yield process
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
