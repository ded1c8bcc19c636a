"""Calls that are cancelled at every suspension: what both engines are tried with."""

import asyncio
import gc

from tests.eventually import eventually
from tests.fault_figures import Account, Sent
from tests.stepping import cancel_task_at

CANCELLED = object()


async def at_every_suspension(call):
    """Cancel a call at its first suspension, its second, and so on until it ends; return what each try came to."""
    tries = []
    while True:
        task, driven = cancel_task_at(len(tries) + 1, call())
        try:
            tries.append(await task)
        except asyncio.CancelledError:
            tries.append(CANCELLED)
        if driven.suspensions <= len(tries) - 1:
            assert tries[-1] is not CANCELLED
            return tries
        assert len(tries) < 500, "it never ends"


async def check_nothing_is_left(before, pool):
    """Check that no task is left but those of before, and that every connection was given back."""
    gc.collect()
    await eventually(lambda: asyncio.all_tasks() <= before, what="no task is left", timeout=20)
    await eventually(lambda: pool.checkedout() == 0, what="every connection was given back", timeout=20)


def delivered(history):
    return [event.payload for event in history if event.kind == "delivered"]


async def try_signals(engine, job, others, record_property):
    """Cancel signals to one job and to several; check that each is there once or not at all, and whole."""
    numbers = iter(range(10_000))
    sent = []

    def one():
        sent.append([job.id])
        return engine.signal(job, next(numbers))

    def several():
        sent.append([job.id, *[other.id for other in others]])
        return engine.signal([job, *others], next(numbers))

    account = Account()
    tries = [*await at_every_suspension(one), *await at_every_suspension(several)]
    last = await account.signal(engine, job.id, "the next call works")
    assert last.outcome == "buffered"
    histories = {one.id: delivered(await engine.ledger.history(one.id)) for one in (job, *others)}
    for number, (answer, targets) in enumerate(zip(tries, sent, strict=True)):
        counts = {histories[target].count(number) for target in targets}
        assert len(counts) == 1, "a call is there by halves"
        assert counts <= ({0, 1} if answer is CANCELLED else {1})
        if answer is CANCELLED:
            account.unknown += [Sent(target, number, None) for target in targets]
        for receipt in answer if isinstance(answer, list) else [answer] if answer is not CANCELLED else []:
            account.note(receipt, number)
    assert tries.count(CANCELLED) >= 2
    figures = await account.figures(engine.ledger)
    figures.record(record_property, happened=tries.count(CANCELLED))


QUESTIONS = {
    "history": lambda ledger, job: ledger.history(job.id),
    "state": lambda ledger, job: ledger.state(job.id),
    "waiting": lambda ledger, _job: ledger.waiting(),
    "outbox": lambda ledger, _job: ledger.outbox(),
    "verify": lambda ledger, _job: ledger.verify(),
    "rebuild": lambda ledger, _job: ledger.rebuild(),
    "events": lambda ledger, _job: _count(ledger.events()),
    "follow": lambda ledger, _job: anext(ledger.follow()),
}


async def _count(events):
    return len([event async for event in events])


async def try_questions(engine, job, record_property):
    for name, ask in QUESTIONS.items():
        tries = await at_every_suspension(lambda ask=ask: ask(engine.ledger, job))
        assert tries[-1] is not CANCELLED
        record_property(f"{name} cancelled", tries.count(CANCELLED))
