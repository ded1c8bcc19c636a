"""Questions to the log, on SQLite and in memory: the answer is what a plain look at every event finds."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_ledger import ledger as ledgers
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore, MemoryUnit
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.sqlite.rows import event_columns
from signal_ledger_adapters.sqlite.statements import statement
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.effort import play_until_met
from tests.logs import MIXTURES, ask, rows_of

QUESTIONS = 20


def clock():
    return datetime(2026, 1, 2, tzinfo=UTC)


async def in_memory(rows, _folder):
    store = MemoryStore(clock)
    unit = MemoryUnit(store._tables, clock())
    for row in rows:
        unit.append([row], WaitState(job_id=row.job_id))
    return store


async def on_sqlite(rows, folder):
    path = Path(folder).resolve() / "log.db"
    store = await SqliteStore.open(path, clock=clock, create=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.executemany(statement("append_event"), [event_columns(row) for row in rows])
    connection.execute("COMMIT")
    connection.close()
    return store


@pytest.mark.timeout(900)
@pytest.mark.parametrize("made", [in_memory, on_sqlite])
def test_l4_every_question_is_answered_as_by_a_look_at_every_event(made, monkeypatch):
    reached = Counter()

    @given(MIXTURES, st.sampled_from([1, 7, 500]), st.data())
    def check(mixture, page, data):
        monkeypatch.setattr(ledgers, "_PAGE", page)
        asyncio.run(answers(made, mixture, data, reached))

    # Few examples may all be of short logs.
    play_until_met(check, ("answered", "in several pages"), reached)


async def answers(made, mixture, data, reached):
    rows = rows_of(mixture)
    with tempfile.TemporaryDirectory() as folder:
        store = await made(rows, folder)
        try:
            await ask(Ledger(store, None), rows, data, QUESTIONS, reached)
        finally:
            # Hypothesis may end an example where it draws.
            await store.close()
