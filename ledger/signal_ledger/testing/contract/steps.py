"""Steps that the tests of the contract share."""

from signal_ledger.codec import decode
from signal_ledger.decisions import (
    GotSignal,
    Waiting,
)
from signal_ledger.names import Execution, JobId
from signal_ledger.testing.bench import Bench, take


async def kinds(bench: Bench, job_id: JobId) -> list[str]:
    """Return the kinds of a job's events, in their order."""
    return [recorded.kind.value for recorded in await bench.store.history(job_id)]


async def executing(bench: Bench, job_id: JobId) -> Execution:
    """Let a worker pick the job up, which must be runnable."""
    execution = await bench.fetch(job_id)
    assert execution is not None
    return execution


async def asleep(bench: Bench, *, wait_for: float | None = None, channel: str = "") -> tuple[JobId, Execution]:
    """Return a job that sleeps on its first wait, and the execution that it slept off."""
    job_id = await bench.insert()
    execution = await executing(bench, job_id)
    assert isinstance(await take(bench, job_id, execution, channel=channel, wait_for=wait_for), Waiting)
    assert await bench.sleep(job_id, execution, channel=channel, wait_for=wait_for)
    return job_id, execution


def payload_of(reply: object) -> object:
    """Return what a take got, which must be a signal."""
    assert isinstance(reply, GotSignal), reply
    assert reply.payload is not None
    return decode(reply.payload)
