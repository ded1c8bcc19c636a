"""Background jobs that wait for signals, durably, on a log that can be audited.

Inside a job, `await_signal` pauses it; from anywhere, `signal` resumes it. `lite` runs jobs on one SQLite file;
`open_ledger` answers who waits, what happened, and whether the log is whole. `Workflow` lets jobs depend on others.

This module is a façade: names are loaded when they are first used, so that importing it costs next to nothing.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oban import Oban

    from signal_ledger import codec as codec
    from signal_ledger import telemetry as telemetry
    from signal_ledger.codec import Limits as Limits
    from signal_ledger.errors import DeliveryUnknown as DeliveryUnknown
    from signal_ledger.errors import KeyConflict as KeyConflict
    from signal_ledger.errors import PayloadError as PayloadError
    from signal_ledger.errors import RerunDiverged as RerunDiverged
    from signal_ledger.errors import SchemaError as SchemaError
    from signal_ledger.errors import SignalTimeout as SignalTimeout
    from signal_ledger.errors import StaleExecution as StaleExecution
    from signal_ledger.history import History as History
    from signal_ledger.history import ReplayStep as ReplayStep
    from signal_ledger.ledger import Ledger as Ledger
    from signal_ledger.outbox import StoredSignal as StoredSignal
    from signal_ledger.ports import WaitingJob as WaitingJob
    from signal_ledger.receipt import Outcome as Outcome
    from signal_ledger.receipt import Receipt as Receipt
    from signal_ledger.recorded import RecordedEvent as RecordedEvent
    from signal_ledger.recorded_job import RecordedJob as RecordedJob
    from signal_ledger.rerun_report import RerunReport as RerunReport
    from signal_ledger.stats import Durations as Durations
    from signal_ledger.stats import Stats as Stats
    from signal_ledger.verify import Progress as Progress
    from signal_ledger.verify import Report as Report
    from signal_ledger.verify_stream import Finding as Finding
    from signal_ledger.versions import SchemaVersion as SchemaVersion
    from signal_ledger.wait_state import WaitState as WaitState
    from signal_ledger.waiting import await_signal as await_signal
    from signal_ledger.waiting import signal as signal
    from signal_ledger.workflow_status import WorkflowStatus as WorkflowStatus
    from signal_ledger_adapters.lite.engine import LiteEngine as LiteEngine
    from signal_ledger_adapters.oban.engine import ObanEngine as ObanEngine
    from signal_ledger_adapters.rerun import rerun as rerun
    from signal_ledger_adapters.workflow import WaitingStep as WaitingStep
    from signal_ledger_adapters.workflow import Workflow as Workflow

__all__ = [
    "DeliveryUnknown",
    "Durations",
    "Finding",
    "History",
    "KeyConflict",
    "Ledger",
    "Limits",
    "LiteEngine",
    "ObanEngine",
    "Outcome",
    "PayloadError",
    "Progress",
    "Receipt",
    "RecordedEvent",
    "RecordedJob",
    "ReplayStep",
    "Report",
    "RerunDiverged",
    "RerunReport",
    "SchemaError",
    "SchemaVersion",
    "SignalTimeout",
    "StaleExecution",
    "Stats",
    "StoredSignal",
    "WaitState",
    "WaitingJob",
    "WaitingStep",
    "Workflow",
    "WorkflowStatus",
    "attach",
    "await_signal",
    "codec",
    "lite",
    "migrate",
    "migration_sql",
    "open_ledger",
    "rerun",
    "schema_version",
    "signal",
    "telemetry",
]

_HOMES = {
    "DeliveryUnknown": "signal_ledger.errors",
    "Durations": "signal_ledger.stats",
    "Finding": "signal_ledger.verify_stream",
    "History": "signal_ledger.history",
    "KeyConflict": "signal_ledger.errors",
    "Ledger": "signal_ledger.ledger",
    "Limits": "signal_ledger.codec",
    "LiteEngine": "signal_ledger_adapters.lite.engine",
    "ObanEngine": "signal_ledger_adapters.oban.engine",
    "Outcome": "signal_ledger.receipt",
    "PayloadError": "signal_ledger.errors",
    "Progress": "signal_ledger.verify",
    "Receipt": "signal_ledger.receipt",
    "RecordedEvent": "signal_ledger.recorded",
    "RecordedJob": "signal_ledger.recorded_job",
    "ReplayStep": "signal_ledger.history",
    "Report": "signal_ledger.verify",
    "RerunDiverged": "signal_ledger.errors",
    "RerunReport": "signal_ledger.rerun_report",
    "SchemaError": "signal_ledger.errors",
    "SchemaVersion": "signal_ledger.versions",
    "SignalTimeout": "signal_ledger.errors",
    "StaleExecution": "signal_ledger.errors",
    "Stats": "signal_ledger.stats",
    "StoredSignal": "signal_ledger.outbox",
    "WaitState": "signal_ledger.wait_state",
    "WaitingJob": "signal_ledger.ports",
    "WaitingStep": "signal_ledger_adapters.workflow",
    "Workflow": "signal_ledger_adapters.workflow",
    "WorkflowStatus": "signal_ledger.workflow_status",
    "await_signal": "signal_ledger.waiting",
    "rerun": "signal_ledger_adapters.rerun",
    "signal": "signal_ledger.waiting",
}


def __getattr__(name: str) -> object:
    if name in ("codec", "telemetry"):
        return import_module(f"signal_ledger.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "await_signal":
        # A worker's module asks for it, maybe before there is an engine: from now on jobs that start can wait for one.
        from signal_ledger_adapters.oban import hooks  # noqa: PLC0415

        hooks.install()
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def lite(
    url: str = "sqlite:///signals.db",
    queues: "Mapping[str, int | Mapping[str, int | bool]] | None" = None,
    *,
    name: str = "Oban",
    shutdown_grace_period: float | None = 15.0,
    live_share: float = 0.5,
    prune_after: float | None = 86_400.0,
    limits: "Limits | None" = None,
    clock: "Callable[[], datetime] | None" = None,
) -> "LiteEngine":
    """Return the embedded engine: Oban's workers on one SQLite file, without a server.

    Use it with ``async with``; it makes the file and its schema, runs the queues, and stops gracefully. Several
    processes may open the same file.

    Args:
        url: The file: ``sqlite:///signals.db`` is relative, ``sqlite:////srv/signals.db`` absolute.
        queues: Queue names and how many jobs each runs at a time, ``{"default": 10}`` unless given; or Oban's options
            ``limit`` and ``paused``. An empty mapping runs nothing: such an engine only enqueues and signals.
        name: The name that ``@worker(oban=...)`` finds the engine by.
        shutdown_grace_period: How long a stop waits for running jobs, in seconds; None waits as long as it takes.
        live_share: Which share of a queue's slots may be live waits, 0 to 1; rounded up. Further ones snooze at once.
        prune_after: How long finished jobs are kept, in seconds; None keeps them for ever. Their history stays.
        limits: Bounds on payloads; 16 MiB and a million terms unless given.
        clock: Returns the present time as an aware UTC datetime; for tests.

    Raises:
        TypeError: An argument is of another type than expected.
        ValueError: An argument is out of range, or the URL names no SQLite file.

    Example:
        >>> import asyncio
        >>> from oban import worker
        >>> from signal_ledger import await_signal, lite
        >>>
        >>> @worker()
        ... class Purchase:
        ...     async def process(self, job):
        ...         print(f"order {job.args['order']} is", await await_signal())
        >>>
        >>> async def main():
        ...     async with lite("sqlite:///signals.db", queues={"default": 10}) as engine:
        ...         job = await Purchase.enqueue({"order": 7})
        ...         await engine.signal(job, "approved")
        ...         async for event in engine.ledger.follow():
        ...             if event.kind == "closed":
        ...                 break
        >>>
        >>> asyncio.run(main())
        order 7 is approved
    """
    from signal_ledger.codec.limits import to_limits  # noqa: PLC0415
    from signal_ledger_adapters import composition  # noqa: PLC0415 - drivers are loaded when they are needed

    return composition.make_lite(
        url,
        composition.DEFAULT_QUEUES if queues is None else queues,
        name=name,
        shutdown_grace_period=shutdown_grace_period,
        live_share=live_share,
        prune_after=prune_after,
        limits=to_limits(limits),
        clock=clock,
    )


def attach(
    oban: "Oban", *, schema: str = "signal_ledger", live_share: float = 0.5, limits: "Limits | None" = None
) -> "ObanEngine":
    """Return the engine for PostgreSQL: the ledger under an ``oban.Oban``, whose workers can wait then.

    Use it with ``async with``. It starts the Oban, and stops it in the end, if it is not started yet; a process that
    runs no queues attaches in the same way and can signal. Several Obans in one process do not mix.

    Args:
        oban: The Oban. The ledger uses the same database.
        schema: The ledger's own schema, which `migrate` has made.
        live_share: Which share of a queue's slots may be live waits, 0 to 1; rounded up. Further ones snooze at once.
        limits: Bounds on payloads; 16 MiB and a million terms unless given.

    Raises:
        TypeError: An argument is of another type than expected.
        ValueError: An argument is out of range.
        SchemaError: On entering: the schema is missing or of another version; the message says what to run. Or the
            ledger was found in another database than Oban's pool leads to.
        RuntimeError: On entering: this Oban has a ledger attached already, or has been stopped.

    Example::

        from oban import Oban
        from signal_ledger import attach

        async with await Oban.create_pool("postgresql://localhost/app") as pool:
            async with attach(Oban(pool=pool, queues={"default": 10})) as engine:
                await engine.signal(42, {"decision": "approved"}, source="ada@example.com")
    """
    from signal_ledger.codec.limits import to_limits  # noqa: PLC0415
    from signal_ledger_adapters import composition  # noqa: PLC0415 - drivers are loaded when they are needed

    return composition.make_attached(oban, schema=schema, live_share=live_share, limits=to_limits(limits))


async def migrate(
    url: str, *, schema: str = "signal_ledger", oban_prefix: str = "public", testing: bool = False
) -> int:
    """Install the ledger's schema, or bring it up to this version: beside Oban's tables, or in a SQLite file.

    It may be called again and again, and by several processes at once. A SQLite file is made if it is not there. It
    needs no call of its own: `lite`, and `open_ledger` unless it only reads, upgrade it when they open it.

    Args:
        url: The database, such as ``postgresql://localhost/app`` or ``sqlite:///signals.db``.
        schema: On PostgreSQL, the ledger's own schema.
        oban_prefix: On PostgreSQL, the schema of Oban's tables, which must be there already.
        testing: On PostgreSQL, make a schema for tests, whose log may be emptied; Oban's ``reset`` is refused else.

    Returns:
        The version of its tables.

    Raises:
        SchemaError: Oban's tables are missing; or the schema is newer, belongs to another Oban, or was made with
            another ``testing``. Or the file cannot be used; the message says why.
        ValueError: The URL is none, or names another database, or no file but a folder, say; or an option of PostgreSQL
            is given for a SQLite file.

    Example:
        >>> import asyncio
        >>> from signal_ledger import migrate
        >>>
        >>> version = asyncio.run(migrate("sqlite:///signals.db"))
        >>> asyncio.run(migrate("sqlite:///signals.db")) == version
        True
    """
    from signal_ledger_adapters import composition  # noqa: PLC0415 - drivers are loaded when they are needed

    return await composition.migrate(url, schema=schema, oban_prefix=oban_prefix, testing=testing)


async def schema_version(url: str, *, schema: str | None = None) -> "SchemaVersion":
    """Return which version of the ledger's schema a database has. Changes nothing, and makes no file.

    Args:
        url: The database, such as ``postgresql://localhost/app`` or ``sqlite:///signals.db``.
        schema: On PostgreSQL, the ledger's own schema; ``signal_ledger`` unless given.

    Raises:
        SchemaError: It cannot be told: the file is no database, say, or the user may not read the schema.
        RuntimeError: The database could not be reached; it is a ``signal_ledger.ports.StoreUnavailableError``.
        TimeoutError: The database does not answer within 30 seconds.
        ValueError: The URL is none, or names another database, or no file but a folder, say; or a schema is given for a
            SQLite file.

    Example:
        >>> import asyncio
        >>> from signal_ledger import migrate, schema_version
        >>>
        >>> async def main():
        ...     print((await schema_version("sqlite:///signals.db")).installed)
        ...     version = await migrate("sqlite:///signals.db")
        ...     found = await schema_version("sqlite:///signals.db")
        ...     print(found.installed == found.newest == version, found.is_current)
        >>>
        >>> asyncio.run(main())
        None
        True True
    """
    from signal_ledger_adapters import composition  # noqa: PLC0415 - drivers are loaded when they are needed

    return await composition.schema_version(url, schema=schema)


def migration_sql(*, schema: str = "signal_ledger", oban_prefix: str = "public") -> str:
    """Return the SQL that installs the ledger's schema on PostgreSQL, for migrations of your own.

    It is what `migrate` does where nothing is installed yet. Run it in one transaction, after Oban's own; what it finds
    installed it refuses. Bring an older schema up to this version by `migrate`.

    Args:
        schema: The ledger's own schema.
        oban_prefix: The schema of Oban's tables.

    Raises:
        TypeError: A name is no str.
        ValueError: It is none that a schema can have.

    Example:
        >>> from signal_ledger import migration_sql
        >>>
        >>> sql = migration_sql(schema="audit")
        >>> 'CREATE TABLE "audit".events' in sql
        True
    """
    from signal_ledger_adapters import composition  # noqa: PLC0415 - drivers are loaded when they are needed

    return composition.migration_sql(schema=schema, oban_prefix=oban_prefix)


def open_ledger(
    url: str,
    *,
    read_only: bool = False,
    limits: "Limits | None" = None,
    schema: str | None = None,
    timeout: float = 30.0,
) -> "AbstractAsyncContextManager[Ledger]":
    """Open a ledger without an engine: to audit, replay and verify, and to signal.

    Args:
        url: Where the ledger is, such as ``sqlite:///signals.db`` or ``postgresql://localhost/app``.
        read_only: Change nothing at all; such a ledger cannot signal.
        limits: Bounds on the payloads of signals.
        schema: On PostgreSQL, the ledger's own schema; ``signal_ledger`` unless given.
        timeout: On PostgreSQL, how long each answer of the database is waited for, in seconds: then a question of the
            ledger ends in `TimeoutError`. Signals have a timeout of their own.

    Returns:
        An async context manager that yields the `Ledger`.

    Raises:
        ValueError: The URL is none, or there is no backend for it; or the timeout is none. On entering: it names no
            file but a folder, say.
        SchemaError: On entering: the database holds no ledger that this library can use.
        TimeoutError: On entering: the database does not answer.

    Example:
        >>> import asyncio
        >>> from oban import Job
        >>> from signal_ledger import lite, open_ledger
        >>>
        >>> async def main():
        ...     async with lite("sqlite:///signals.db", queues={}) as engine:
        ...         job = await engine.enqueue(Job("shop.Purchase"))
        ...         await engine.signal(job, "approved", source="ada@example.com")
        ...     async with open_ledger("sqlite:///signals.db", read_only=True) as ledger:
        ...         async for event in ledger.events():
        ...             print(f"job {event.job_id}: {event.kind} by {event.source}: {event.payload}")
        ...         print(await ledger.verify())
        >>>
        >>> asyncio.run(main())
        job 1: delivered by ada@example.com: approved
        verify: ok (1 event, 1 stream)
    """
    from signal_ledger.arguments import to_seconds  # noqa: PLC0415
    from signal_ledger.backends import backend_for  # noqa: PLC0415
    from signal_ledger.codec.limits import to_limits  # noqa: PLC0415

    return backend_for(url)(
        url, read_only=read_only, limits=to_limits(limits), schema=schema, timeout_s=to_seconds("timeout", timeout)
    )
