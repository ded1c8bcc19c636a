"""Checks of what is to be enqueued. Each says what was expected and what was found, before anything is written."""

from collections.abc import Iterable, Mapping

from oban import Job

from signal_ledger.arguments import type_name
from signal_ledger_adapters.workflow import Workflow


def require_job(given: object) -> Job:
    """Return a job that is to be enqueued.

    Raises:
        TypeError: It is something else; a workflow, for instance.
    """
    if isinstance(given, Job):
        return given
    if isinstance(given, Workflow):
        raise TypeError(
            f"job: expected a Job, got {given}; enqueue one workflow at a time: engine.enqueue_many(workflow)"
        )
    raise TypeError(f"job: expected a Job, such as Worker.new(...) returns, got {type_name(given)}")


def require_jobs(jobs_or_first: object, rest: Iterable[object]) -> list[Job]:
    """Return the jobs that are to be enqueued, in order. An iterable is consumed once.

    Raises:
        TypeError: Something else is among them.
    """
    if isinstance(jobs_or_first, Job):
        given = [jobs_or_first, *rest]
    elif isinstance(jobs_or_first, Iterable) and not isinstance(jobs_or_first, str | bytes | Mapping):
        given = [*jobs_or_first, *rest]
    else:
        raise TypeError(f"jobs: expected a Job or an iterable of jobs, got {type_name(jobs_or_first)}")
    return [require_job(each) for each in given]
