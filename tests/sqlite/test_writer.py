"""One writer: shared commits without a timer, locks waited for, faults that hit only whom they concern."""

import asyncio
import contextlib
import math
import sqlite3
import threading
from dataclasses import dataclass

import aiosqlite
import pytest

from signal_ledger.embedded.operations import GetJobs, Repair
from signal_ledger.errors import DeliveryUnknown, KeyConflict
from signal_ledger.ports import StoreUnavailableError
from signal_ledger.testing.bench import Signaller, take
from signal_ledger.testing.clock import ManualClock
from signal_ledger.unit import AnyJobs
from signal_ledger_adapters.sqlite import writer as writers
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.core.test_embedded import new_job
from tests.eventually import eventually


class Trace:
    """What the writer's connection executes."""

    def __init__(self, bench):
        self.statements = []
        self.connection = bench.store._writing._connection
        self.connection.set_trace_callback(self.note)

    def note(self, sql):
        # The statements of a trigger come under the name of the one that set it off.
        if not sql.startswith("--") and sql not in self.statements[-1:]:
            self.statements.append(sql)

    @property
    def commits(self):
        return self.statements.count("COMMIT")

    def count(self, text):
        return sum(text in statement for statement in self.statements)


@contextlib.contextmanager
def lock(path):
    """Another program that holds the write lock."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.close()


async def test_d2_concurrent_calls_share_a_commit(bench):
    job_ids = [await bench.insert() for _ in range(20)]
    trace = Trace(bench)
    receipts = await asyncio.gather(*[bench.signaller.send(job_id, n) for n, job_id in enumerate(job_ids)])
    assert [receipt.outcome for receipt in receipts] == ["buffered"] * 20
    assert trace.commits == 1


async def test_a_lone_call_takes_one_transaction_of_few_statements(bench):
    job_id = await bench.insert()
    trace = Trace(bench)
    await bench.signaller.send(job_id)
    assert trace.commits == trace.count("BEGIN IMMEDIATE") == 1
    assert len(trace.statements) == 6, trace.statements  # begin, look, read, write two tables, commit


async def test_calls_that_arrive_during_a_commit_share_the_next_one(bench, monkeypatch):
    job_ids = [await bench.insert() for _ in range(10)]
    writer = bench.store._writing
    in_commit, go_on = threading.Event(), threading.Event()
    commit = writer._commit

    def slow_commit():
        in_commit.set()
        assert go_on.wait(10)
        commit()

    monkeypatch.setattr(writer, "_commit", slow_commit)
    monkeypatch.setattr(writers, "QUICK_COMMIT_S", 0)
    trace = Trace(bench)
    first = asyncio.create_task(bench.signaller.send(job_ids[0]))
    await asyncio.to_thread(in_commit.wait, 10)
    others = [asyncio.create_task(bench.signaller.send(job_id)) for job_id in job_ids[1:]]
    await asyncio.sleep(0.01)
    assert not first.done()
    go_on.set()
    await asyncio.gather(first, *others)
    assert trace.commits == 2


async def test_commits_leave_the_event_loop_as_soon_as_one_was_slow_and_come_back_when_it_is_forgotten(
    bench, monkeypatch
):
    job_id = await bench.insert()
    writer = bench.store._writing
    commit, threads = writer._commit, []

    def noted_commit():
        threads.append(threading.current_thread())
        commit()
        writer._commit_s = paces.pop(0)

    monkeypatch.setattr(writer, "_commit", noted_commit)
    writer._commit_s = 0.0
    here, quick, slow = threading.current_thread(), writers.QUICK_COMMIT_S / 2, writers.QUICK_COMMIT_S * 2
    paces = [quick, slow, slow, quick, quick]
    for _ in range(5):
        await bench.signaller.send(job_id)
    assert [thread is here for thread in threads] == [True, True, False, False, True]
    monkeypatch.undo()
    writer._commit_s = 100.0
    for _ in range(10):
        await bench.signaller.send(job_id)
    assert writer._commit_s < 50


@pytest.mark.parametrize("payload", [1, "x" * 50_000])
async def test_the_write_ahead_log_is_written_back_in_the_thread(bench, path, monkeypatch, payload):
    job_id = await bench.insert()
    monkeypatch.setattr(writers, "CHECKPOINT_PAGES", 10)
    trace = Trace(bench)
    for _ in range(20):
        await bench.signaller.send(job_id, payload)
    assert trace.count("wal_checkpoint") >= 2
    # Without being written back it would hold every page of all those commits.
    assert path.with_name(f"{path.name}-wal").stat().st_size < 20 * 10 * 4096 * (1 if payload == 1 else 2)


async def test_d1_a_write_ahead_log_that_cannot_be_written_back_yet_costs_no_signal(bench, path, monkeypatch, caplog):
    job_id = await bench.insert()
    monkeypatch.setattr(writers, "CHECKPOINT_PAGES", 1)
    connection = bench.store._writing._connection

    def refuse(action, *_):
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_PRAGMA else sqlite3.SQLITE_OK

    bench.store._writing._known.forget_if_changed = lambda _connection: None  # its PRAGMA would be refused, too
    connection.set_authorizer(refuse)
    assert (await bench.signaller.send(job_id)).version == 1
    connection.set_authorizer(None)
    assert "could not be written back yet" in caplog.text
    assert len(await bench.store.history(job_id)) == 1


async def test_d2_batches_are_bounded_in_operations_and_bytes(bench, monkeypatch):
    monkeypatch.setattr(writers, "BATCH_OPERATIONS_MAX", 4)
    job_ids = [await bench.insert() for _ in range(10)]
    trace = Trace(bench)
    await asyncio.gather(*[bench.signaller.send(job_id) for job_id in job_ids])
    assert trace.commits == 3
    monkeypatch.setattr(writers, "BATCH_OPERATIONS_MAX", 100)
    monkeypatch.setattr(writers, "BATCH_BYTES_MAX", 3000)
    trace.statements.clear()
    await asyncio.gather(*[bench.signaller.send(job_id, "x" * 1000) for job_id in job_ids])
    assert trace.commits == 4


async def test_d2_a_call_is_one_transaction_however_large_it_is(bench, monkeypatch):
    monkeypatch.setattr(writers, "BATCH_OPERATIONS_MAX", 1)
    job_ids = [await bench.insert() for _ in range(50)]
    trace = Trace(bench)
    await bench.signaller.send_all(job_ids)
    assert trace.commits == 1


@dataclass(frozen=True)
class Poison(AnyJobs):
    """An operation that fails in the middle of its work."""

    job_id: int

    def run(self, unit):
        unit.wake(self.job_id)
        unit.remove(self.job_id)
        raise ZeroDivisionError("in the middle")


async def test_an_operation_that_fails_takes_nobody_along_and_leaves_no_trace(bench):
    job_ids = [await bench.insert() for _ in range(3)]
    await bench.store.state(job_ids[0])
    results = await asyncio.gather(
        bench.signaller.send(job_ids[0], 0),
        bench.store.transact(Poison(job_ids[0])),
        bench.signaller.send(job_ids[1], 1),
        bench.signaller.send(job_ids[0], 2),
        return_exceptions=True,
    )
    assert isinstance(results[1], ZeroDivisionError)
    assert [recorded.payload for recorded in await bench.store.history(job_ids[0])] == [0, 2]
    assert (await bench.job(job_ids[0])).state == "available"
    assert (await bench.store.state(job_ids[0])).version == 2


async def test_d6_two_calls_with_one_key_in_one_batch_deliver_once(bench):
    job_id = await bench.insert()
    same = [bench.signaller.send(job_id, 1, key="k") for _ in range(3)]
    outcomes = sorted(receipt.outcome for receipt in await asyncio.gather(*same))
    assert outcomes == ["buffered", "duplicate", "duplicate"]
    different = await asyncio.gather(
        bench.signaller.send(job_id, 1, key="l"), bench.signaller.send(job_id, 2, key="l"), return_exceptions=True
    )
    assert {type(result).__name__ for result in different} == {"Receipt", "KeyConflict"}
    assert isinstance(different[1], KeyConflict)


async def test_a_write_lock_of_another_program_is_waited_for_without_losing_work(bench, path, caplog, monkeypatch):
    monkeypatch.setattr(writers, "_LOCK_WARNING_S", 0.02)
    job_id = await bench.insert()
    with lock(path):
        waiting = [asyncio.create_task(bench.signaller.send(job_id, number)) for number in range(3)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        assert await bench.job(job_id) is not None  # reading goes on
    assert {receipt.outcome for receipt in await asyncio.gather(*waiting)} == {"buffered"}
    assert "another program holds the write lock" in caplog.text


async def test_a_write_lock_is_told_of_also_behind_what_waits_for_a_caller(bench, path, caplog, monkeypatch):
    """The ids of a caller's jobs wait for as long as its transaction takes; a signal should not have to."""
    monkeypatch.setattr(writers, "_LOCK_WARNING_S", 0.02)
    job_id = await bench.insert()
    async with aiosqlite.connect(path) as caller:
        await caller.execute("BEGIN IMMEDIATE")
        await bench.store.insert_with(caller, [new_job()])
        await eventually(lambda: bench.store._writing._is_waiting_for_lock)
        sending = asyncio.create_task(bench.signaller.send(job_id, 1))
        await eventually(lambda: "another program holds the write lock; 2 operations wait" in caplog.text)
        await caller.rollback()
    assert (await sending).outcome == "buffered"
    assert "1 operations wait" not in caplog.text


async def test_the_event_loop_goes_on_while_a_lock_or_a_commit_is_waited_for(bench, path, monkeypatch):
    job_id = await bench.insert()
    with lock(path):
        waiting = asyncio.create_task(bench.signaller.send(job_id))
        loop = asyncio.get_running_loop()
        longest = 0.0
        for _ in range(20):
            before = loop.time()
            await asyncio.sleep(0.005)
            longest = max(longest, loop.time() - before)
        assert longest < 0.5
    await waiting


async def test_d6_a_call_whose_time_is_up_while_it_waits_for_the_lock_is_never_run(bench, path):
    job_id = await bench.insert()
    with lock(path):
        with pytest.raises(DeliveryUnknown):
            await _send(bench, job_id, timeout=0.05)
        cancelled = asyncio.create_task(bench.signaller.send(job_id, 2))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    await bench.signaller.send(job_id, 3)
    assert [recorded.payload for recorded in await bench.store.history(job_id)] == [3]


async def test_d6_each_call_has_its_own_time_whoever_came_first(bench, path):
    """One timer serves all calls: it must be set anew for a shorter time, and again for those that remain."""
    job_id = await bench.insert()
    with lock(path):
        patient = asyncio.create_task(_send(bench, job_id, timeout=60))
        hasty = [asyncio.create_task(_send(bench, job_id, timeout=timeout)) for timeout in (0.2, 0.02, 0.1)]
        elsewhere = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(_send(bench, job_id, timeout=0.05))))
        answers = await asyncio.gather(*hasty, elsewhere, return_exceptions=True)
        assert [type(answer) for answer in answers] == [DeliveryUnknown] * 4
        assert not patient.done()
    assert (await patient).version == 1


async def _send(bench, job_id, *, timeout):
    from signal_ledger.delivery import Sender

    sender = Sender(store=bench.store, new_id=bench.signaller._new_id)
    return await sender.send(job_id, 1, channel=None, key=None, source=None, timeout=timeout)


async def test_d1_a_full_disk_refuses_and_the_call_succeeds_when_there_is_room(bench):
    job_id = await bench.insert()
    connection = bench.store._writing._connection
    [pages] = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    waiting = asyncio.create_task(bench.signaller.send(job_id, "x" * 100_000))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    with pytest.raises(StoreUnavailableError, match="database or disk is full"):
        await bench.store.deliver(_call(job_id, "y" * 100_000), timeout_s=1)
    connection.execute("PRAGMA max_page_count = 1000000")
    assert (await waiting).outcome == "buffered"
    assert len(await bench.store.history(job_id)) == 1


def _call(job_id, payload):
    from signal_ledger.codec import encode_with_digest
    from signal_ledger.commands import Deliver
    from signal_ledger.operations import DeliverCall

    encoded = encode_with_digest(payload)
    delivery = Deliver(job_id=job_id, signal_id="full", channel="", payload=encoded.data, payload_digest=encoded.digest)
    return DeliverCall(deliveries=(delivery,))


async def test_d1_a_commit_that_fails_is_told_to_its_callers_and_kept_by_nobody(bench, monkeypatch):
    job_ids = [await bench.insert() for _ in range(2)]
    writer = bench.store._writing
    commit, faults = writer._commit, iter([True, True, False])

    def failing_commit():
        if next(faults, False):
            raise sqlite3.OperationalError("disk I/O error")
        commit()

    monkeypatch.setattr(writer, "_commit", failing_commit)
    receipts = await asyncio.gather(*[bench.signaller.send(job_id) for job_id in job_ids])
    assert [receipt.outcome for receipt in receipts] == ["buffered", "buffered"]
    assert [len(await bench.store.history(job_id)) for job_id in job_ids] == [1, 1]


async def test_a_transaction_that_changes_nothing_needs_no_commit(bench):
    job_id = await bench.insert()
    execution = await bench.fetch(job_id)
    await take(bench, job_id, execution)
    trace = Trace(bench)
    await take(bench, job_id, execution)
    assert (trace.commits, trace.count("ROLLBACK")) == (0, 1)


async def test_reads_take_no_write_lock(bench):
    job_id = await bench.insert()
    trace = Trace(bench)
    assert len(await bench.store.read(GetJobs(job_ids=(job_id,)))) == 1
    assert trace.count("BEGIN") == 0


async def test_signals_may_come_from_other_event_loops(bench):
    job_id = await bench.insert()

    def elsewhere():
        return asyncio.run(bench.signaller.send(job_id, "from another loop"))

    receipt = await asyncio.to_thread(elsewhere)
    assert receipt.outcome == "buffered"

    def refused_elsewhere():
        async def send():
            with pytest.raises(KeyConflict):
                await asyncio.gather(*[bench.signaller.send(job_id, n, key="k") for n in range(2)])
            with pytest.raises(ZeroDivisionError):
                await bench.store.transact(Poison(job_id))

        asyncio.run(send())

    await asyncio.to_thread(refused_elsewhere)


async def test_an_event_loop_that_has_gone_misses_its_result_only(bench, path):
    job_id = await bench.insert()

    def elsewhere():
        async def give_up():
            task = asyncio.create_task(bench.signaller.send(job_id))
            await asyncio.sleep(0.02)
            task.cancel()

        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(give_up())

    with lock(path):
        await asyncio.to_thread(elsewhere)
    _gone_request().settle(None, None)
    assert (await bench.signaller.send(job_id)).outcome == "buffered"


def _gone_request():
    loop = asyncio.new_event_loop()
    request = writers._Request(GetJobs(job_ids=()), loop, loop.create_future(), ends_at=math.inf, size_bytes=0)
    loop.close()
    return request


async def test_what_is_known_of_a_job_is_forgotten_when_another_connection_writes(bench, path):
    job_id = await bench.insert()
    await bench.signaller.send(job_id)
    trace = Trace(bench)
    await bench.signaller.send(job_id)
    assert trace.count("json_each") == 0
    other = sqlite3.connect(path)
    other.execute("UPDATE oban_jobs SET state = 'cancelled' WHERE id = ?", (job_id,))
    other.commit()
    other.close()
    assert (await bench.signaller.send(job_id)).reason == "cancelled"


async def test_l3_a_projection_that_is_missing_or_unreadable_is_folded_from_the_log(bench, path, caplog):
    job_id = await bench.insert()
    await bench.signaller.send(job_id, 1)
    for damage in (
        "DELETE FROM signal_ledger_waits",
        "UPDATE signal_ledger_waits SET status = 'nonsense'",
        "UPDATE signal_ledger_waits SET inboxes = 'nonsense'",
    ):
        other = sqlite3.connect(path)
        other.execute(damage)
        other.commit()
        other.close()
        version = len(await bench.store.history(job_id))
        if "DELETE" in damage:
            assert (await bench.store.state(job_id)).version == version
        assert (await bench.signaller.send(job_id)).version == version + 1
        assert (await bench.store.state(job_id)).pending == {None: version + 1}
    assert "cannot be read; folding its stream instead" in caplog.text


async def test_a_job_whose_stream_was_just_rebuilt_is_known_as_a_job_too(bench):
    """Found by the state machine."""
    job_id = await bench.insert()
    await bench.signaller.send(job_id)
    bench.store._writing._known.forget()
    await bench.store.rebuild()
    await bench.cancel(job_id)
    assert (await bench.store.history(job_id))[-1].cause == "cancelled"


async def test_l8_a_stream_of_a_newer_library_is_refused_and_left_alone(bench, path):
    from signal_ledger.upcast import NewerEventError

    job_id, other_job = await bench.insert(), await bench.insert()
    await bench.signaller.send(job_id)
    execution = await bench.fetch(job_id)
    for damage in (
        "UPDATE signal_ledger_waits SET schema_version = 3",
        f"""DELETE FROM signal_ledger_waits; DROP TRIGGER signal_ledger_events_no_update;
            UPDATE signal_ledger_events SET schema_version = 3 WHERE job_id = {job_id}""",
    ):
        other = sqlite3.connect(path)
        other.executescript(damage)
        other.commit()
        other.close()
        results = await asyncio.gather(
            bench.signaller.send(job_id), take(bench, job_id, execution), bench.signaller.send(other_job),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(result).__name__ for result in results] == ["NewerEventError", "NewerEventError", "Receipt"]
        with pytest.raises(NewerEventError):
            await bench.store.state(job_id)


async def test_closing_finishes_what_was_asked_for(path):
    from signal_ledger.testing.bench import EmbeddedBench
    from signal_ledger.testing.clock import ManualClock
    from signal_ledger_adapters.sqlite.store import SqliteStore

    clock = ManualClock()
    store = await SqliteStore.open(path, clock=clock, create=True)
    bench = EmbeddedBench(store, clock)
    job_id = await bench.insert()
    sending = [asyncio.create_task(bench.signaller.send(job_id)) for _ in range(3)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert [receipt.outcome for receipt in await asyncio.gather(*sending)] == ["buffered"] * 3


async def test_d4_a_job_that_was_asked_for_before_it_was_enqueued_gets_its_signals(bench):
    """What a connection knows of jobs must not outlive its own inserts."""
    assert (await bench.signaller.send(1)).reason == "missing"
    job_id = await bench.insert()
    assert job_id == 1
    assert (await bench.signaller.send(job_id)).outcome == "buffered"


async def test_w10_a_run_that_another_program_ended_is_closed_before_the_next_signal(bench, path):
    """Ended and begun again by hand, before any sweep: the signal belongs to the new run."""
    job_id = await bench.insert()
    await bench.signaller.send(job_id, "old")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE oban_jobs SET state = 'cancelled'")
        connection.execute("UPDATE oban_jobs SET state = 'available'")
    connection.close()
    await bench.signaller.send(job_id, "new")
    await bench.store.transact(Repair())
    history = await bench.store.history(job_id)
    assert [(recorded.kind, recorded.run) for recorded in history] == [
        ("delivered", 1),
        ("closed", 1),
        ("delivered", 2),
    ]


async def test_d6_a_commit_that_failed_but_happened_delivers_once(bench, monkeypatch):
    job_ids = [await bench.insert() for _ in range(2)]
    writer = bench.store._writing
    commit, faults = writer._commit, iter([True, False])

    def lying_commit():
        commit()
        if next(faults, False):
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(writer, "_commit", lying_commit)
    receipts = await asyncio.gather(*[bench.signaller.send(job_id) for job_id in job_ids])
    assert [(receipt.outcome, receipt.version) for receipt in receipts] == [("buffered", 1)] * 2
    assert [len(await bench.store.history(job_id)) for job_id in job_ids] == [1, 1]


async def test_a_call_from_another_thread_that_comes_too_late_is_refused(path):
    store = await SqliteStore.open(path, clock=ManualClock(), create=True)
    signaller = Signaller(store)
    writer = store._writing
    on_its_way, closed = threading.Event(), threading.Event()
    accept = writer._accept

    def late(request):
        on_its_way.set()
        asyncio.get_running_loop().create_task(after_close(request))

    async def after_close(request):
        await asyncio.to_thread(closed.wait, 10)
        accept(request)

    writer._accept = late
    call = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(signaller.send(1))))
    await asyncio.to_thread(on_its_way.wait, 10)
    await store.close()
    closed.set()
    with pytest.raises(RuntimeError, match="expected an open ledger, this one has been closed"):
        await call


async def test_d6_a_call_from_another_thread_keeps_its_own_time(bench):
    """Its timeout holds even if the event loop of the writer is held up."""
    job_id = await bench.insert()
    go_on = threading.Event()
    answers = []

    def elsewhere():
        try:
            asyncio.run(_send(bench, job_id, timeout=0.05))
        except DeliveryUnknown as error:
            answers.append(error)
        go_on.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert go_on.wait(10)
    thread.join()
    assert len(answers) == 1


async def test_whoever_opens_the_file_for_a_few_writes_leaves_no_long_log_behind(bench, path):
    job_id = await bench.insert()
    signaller = Signaller(bench.store)
    for _ in range(20):
        store = await SqliteStore.open(path, clock=ManualClock(), create=True)
        signaller.go_on_with(store)
        await signaller.send(job_id, "x" * 100_000)
        await store.close()
    assert path.with_name(f"{path.name}-wal").stat().st_size < 1_000_000
