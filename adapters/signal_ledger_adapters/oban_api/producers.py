"""Producers: what runs a queue."""

from weakref import WeakSet

from oban import Job
from oban._producer import Producer
from oban._query import Query

from signal_ledger_adapters.oban_api.instances import instances

_started: WeakSet[Producer] = WeakSet()


def note_started(producer: Producer) -> None:
    """Remember a producer of this process, whatever becomes of the name of its engine."""
    _started.add(producer)


def is_fetched(job: Job) -> bool:
    """Say whether a queue of this process has fetched the job."""
    known = {producer for oban in list(instances.values()) for producer in getattr(oban, "_producers", {}).values()}
    return any(producer._uuid in job.attempted_by for producer in known | set(_started))


def query_of_producer(producer: Producer) -> Query:
    """Return what tells the engine that a producer belongs to."""
    return producer._query


def limit_of(producer: Producer) -> int:
    """Return how many jobs it runs at a time, as of now: queues can be scaled."""
    return producer._limit
