"""Processes that are traced: ``python -m tests.processes.traced signals|works URL [JOB_ID ...]``.

Each says that it is ready, and when it has ended prints the spans that it has made, as a line of JSON.
"""

import asyncio
import contextlib
import json
import sys

from oban import Oban, worker
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach, await_signal, lite, open_ledger
from signal_ledger.telemetry import opentelemetry


@worker()
class Traced:
    async def process(self, job):
        for _ in range(job.args["signals"]):
            await await_signal(wait_timeout=0)


@contextlib.asynccontextmanager
async def an_engine(url):
    if url.startswith("sqlite"):
        async with lite(url, queues={"default": 2}) as engine:
            yield engine
        return
    async with (
        AsyncConnectionPool(url, open=False, min_size=1, max_size=3) as pool,
        attach(Oban(pool=pool, queues={"default": 2}, stager={"interval": 0.2})) as engine,
    ):
        yield engine


async def signals(url, tracer, *job_ids):
    """Signal all of the jobs in one call, in a span of its own, and then each by itself."""
    async with open_ledger(url) as ledger:
        with tracer.start_as_current_span("a request"):
            await ledger.signal([int(job_id) for job_id in job_ids], "of the list")
            for job_id in job_ids:
                await ledger.signal(int(job_id), "of its own", source="ada")


async def works(url, _tracer):
    """Run jobs until standard input closes."""
    async with an_engine(url):
        await asyncio.to_thread(sys.stdin.read)


def told(span):
    def ids(context):
        return [f"{context.trace_id:032x}", f"{context.span_id:016x}"]

    return {
        "name": span.name,
        "kind": span.kind.name,
        "ids": ids(span.context),
        "parent": span.parent and ids(span.parent),
        "links": [[*ids(link.context), link.context.is_remote] for link in span.links],
        "attributes": dict(span.attributes),
        "events": [[event.name, dict(event.attributes)] for event in span.events],
        "status": span.status.status_code.name,
    }


async def main(role, url, *job_ids):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    opentelemetry.attach(provider)
    print("ready", flush=True)
    await {"signals": signals, "works": works}[role](url, provider.get_tracer("tests"), *job_ids)
    print(json.dumps([told(span) for span in exporter.get_finished_spans()]), flush=True)


if __name__ == "__main__":
    # Workers are found by their module's name, which must be the same in every process.
    from tests.processes import traced as this

    asyncio.run(this.main(*sys.argv[1:]))
