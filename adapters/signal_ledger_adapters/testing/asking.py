"""What an assertion asks of an engine or a ledger, and how it fails."""

from datetime import datetime

from signal_ledger.arguments import to_job_id
from signal_ledger.delivery import HasId
from signal_ledger.engines import Engine, only_engine
from signal_ledger.execution import current_execution
from signal_ledger.ledger import Ledger
from signal_ledger.ports import WaitingJob
from signal_ledger.recorded import RecordedEvent
from signal_ledger_adapters.given import utc_now
from signal_ledger_adapters.lite.engine import LiteEngine
from signal_ledger_adapters.oban.engine import ObanEngine
from signal_ledger_adapters.testing.engine import ManualEngine
from signal_ledger_adapters.testing.telling import error_told, told_history


class Asked:
    """A job, and whom to ask about it.

    Args:
        job: The job, or its id.
        via: The engine or the ledger; None is the engine of the job that asks, or else the only one that is open.
    """

    def __init__(self, job: int | HasId, via: Engine | Ledger | None) -> None:
        self._job_id = to_job_id(job)
        self._worker = getattr(job, "worker", None)
        if via is None:
            execution = current_execution()
            via = only_engine(f"job {self._job_id}") if execution is None else execution.engine
        self._via = via

    async def wait(self) -> WaitingJob | None:
        """Return what the job waits for."""
        waits = await self._ledger.waits_of([self._job_id])
        return waits[0] if waits else None

    async def history(self) -> list[RecordedEvent]:
        """Return the job's events."""
        return await self._ledger.history(self._job_id)

    async def state(self) -> str | None:
        """Return the job's state; None if there is no such job.

        Raises:
            TypeError: A ledger is asked.
        """
        if not isinstance(self._via, LiteEngine | ObanEngine):
            raise TypeError(f"via: expected an engine, which has jobs, got {type(self._via).__name__}")
        found = await self._via.get_job(self._job_id)
        return None if found is None else str(found.state)

    def now(self) -> datetime:
        """Return the present time, by the engine's clock if it was given one."""
        present = None if isinstance(self._via, Ledger) else self._via.present()
        return utc_now() if present is None else present

    @property
    def tolerance_s(self) -> float:
        """How far a deadline may be from what is expected, in seconds."""
        return 1.0 if isinstance(self._via, ManualEngine) else 10.0

    async def what_it_does(self) -> str:
        """Say what the job does that does not wait."""
        if isinstance(self._via, Ledger):
            return f"its wait state is {(await self._ledger.state(self._job_id)).status.value}"
        match await self.state():
            case None:
                return "there is no such job"
            case "available" if isinstance(self._via, ManualEngine):
                return "it is available, and runs with the next drain() or advance()"
            case state:
                return f"it is {state}"

    async def failure(self, expected: str, found: str) -> AssertionError:
        """Return what to raise: it tells what was expected and found, and the job's history.

        The exception that failed the job, if there is one at hand, is its cause.
        """
        name = f"job {self._job_id}" + ("" if self._worker is None else f" ({self._worker.rpartition('.')[-1]})")
        lines = [f"{name}: expected {expected}; {found}"]
        error = self._via.error_of(self._job_id) if isinstance(self._via, ManualEngine) else None
        if error is not None:
            lines.append(f"   its last execution failed by {error_told(error)}")
        lines += told_history(await self.history())
        failure = AssertionError("\n".join(lines))
        failure.__cause__ = error
        return failure

    @property
    def _ledger(self) -> Ledger:
        return self._via if isinstance(self._via, Ledger) else self._via.ledger
