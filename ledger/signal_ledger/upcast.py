"""Old events, read as if they had been written today (promise L8).

A step brings the columns of one kind from one schema version to the next. Version 2 has added kinds and changed none,
hence no step; the first change of a kind's columns adds one here, and golden files beside the old ones.
"""

from collections.abc import Callable, Mapping

from signal_ledger.errors import SchemaError
from signal_ledger.events import Kind
from signal_ledger.stored import SCHEMA_VERSION, StoredEvent

type Step = Callable[[StoredEvent], StoredEvent]
"""Returns a row with the columns of the next schema version; ``schema_version`` and ``checksum`` stay as written."""

_KINDS = frozenset(kind.value for kind in Kind)

STEPS: Mapping[tuple[Kind, int], Step] = {}


class NewerEventError(SchemaError):
    """An event was written by a newer version of this library, which this one must not guess about (promise L8)."""

    def __init__(self, *, job_id: int, version: int, kind: str, schema_version: int) -> None:
        self.job_id = job_id
        self.version = version
        super().__init__(
            f"job {job_id}: event {version} ({kind}) has schema version {schema_version}, newer than this library "
            "reads; upgrade signal-ledger in this process"
        )


def upcast(
    row: StoredEvent, *, steps: Mapping[tuple[Kind, int], Step] = STEPS, current: int = SCHEMA_VERSION
) -> StoredEvent:
    """Bring a row's columns to the version that this library knows.

    Args:
        row: As stored.
        steps: From (kind, schema version) to the step to the next version; a kind that did not change has none.
        current: The schema version that is wanted.

    Raises:
        NewerEventError: The schema version is newer than ``current``, or the kind is unknown.
    """
    if row.schema_version == current and row.kind in _KINDS:
        return row
    if row.schema_version > current or row.kind not in _KINDS:
        raise NewerEventError(job_id=row.job_id, version=row.version, kind=row.kind, schema_version=row.schema_version)
    for version in range(row.schema_version, current):
        step = steps.get((Kind(row.kind), version))
        row = row if step is None else step(row)
    return row
