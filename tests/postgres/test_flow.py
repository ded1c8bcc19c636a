"""Steps of workflows on PostgreSQL: how they begin, who releases them, and what nobody can strand (F1 to F5)."""

import asyncio

import psycopg
import pytest
from psycopg.types.json import Jsonb

from signal_ledger import open_ledger
from signal_ledger.causes import Cause
from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.plan import Plan
from signal_ledger.steps import steps_to_retry
from signal_ledger.testing.contract.steps import executing, kinds
from tests.eventually import eventually
from tests.postgres.locks import waiting_backends

MARK = "UPDATE oban_jobs SET state = %s WHERE id = ANY (%s)"


def plan(name, *deps, workflow="w", ignore=()):
    return Plan(workflow_id=workflow, workflow_name=None, name=name, deps=deps, ignore=tuple(map(Cause, ignore)))


@pytest.fixture
def admin(ledger_url):
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def connect(ledger_url):
    """Open connections with transactions; those that are left open are rolled back in the end."""
    opened = []

    def open_one():
        opened.append(psycopg.connect(ledger_url))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture(autouse=True)
async def _whole(request, ledger_url, bench):
    yield
    # Whatever was done: nothing is noted for repair in the end, nothing untold, and the log is that of the rules.
    async with open_ledger(ledger_url) as ledger:
        report = await ledger.verify()
        assert report.ok, str(report)
    with psycopg.connect(ledger_url) as connection:
        assert connection.execute("SELECT * FROM signal_ledger.ends").fetchall() == []


def state(admin, job_id):
    found = admin.execute("SELECT state::text FROM oban_jobs WHERE id = %s", [job_id]).fetchone()
    return found and found[0]


def insert(connection, meta, job_state="available"):
    sql = "INSERT INTO oban_jobs (worker, state, meta, scheduled_at) VALUES ('w', %s, %s, 'epoch') RETURNING id"
    return connection.execute(sql, [job_state, Jsonb(meta)]).fetchone()[0]


def meta(name, *deps):
    return plan(name, *deps).to_meta()


async def finish(bench, job_id, end=JobState.COMPLETED):
    await bench.finish(job_id, await executing(bench, job_id), end)


# What can be enqueued.


@pytest.mark.parametrize(
    "wrong",
    [
        {"workflow_id": "w"},
        {"workflow_id": None, "name": "a"},
        {"workflow_id": 5, "name": "a"},
        {"workflow_id": "w", "name": 5},
        {"workflow_id": "w", "name": "a", "workflow_name": 5},
        {"workflow_id": "w", "name": "a", "deps": "b"},
        {"workflow_id": "w", "name": "a", "deps": None},
        {"workflow_id": "w", "name": "a", "deps": {"b": 1}},
        {"workflow_id": "w", "name": "a", "deps": ["b", 5]},
        {"workflow_id": "w", "name": "a", "deps": ["b", "b"]},
    ],
)
def test_f5_a_plan_that_cannot_be_kept_is_refused_and_its_job_with_it(admin, wrong):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="signal_ledger F5"):
        insert(admin, wrong)
    assert admin.execute("SELECT id FROM oban_jobs").fetchall() == []


@pytest.mark.parametrize("ordinary", [{}, {"name": "a", "deps": ["b"]}, ["workflow_id"], "workflow_id", 5, None])
def test_f5_a_job_without_a_workflow_is_none_of_the_ledgers_business(admin, ordinary):
    insert(admin, ordinary)
    assert admin.execute("SELECT * FROM signal_ledger.steps").fetchall() == []


def test_f4_a_name_that_the_workflow_has_is_refused_by_name(admin):
    insert(admin, meta("approval"))
    with pytest.raises(psycopg.errors.UniqueViolation, match=r'workflow w: expected new names .* "approval" is in it'):
        insert(admin, meta("approval"))
    insert(admin, plan("approval", workflow="another").to_meta())


async def test_f5_the_log_holds_the_plan_as_the_library_writes_it(bench, admin):
    names = ['quotes " and \\', "line\nand\ttab\x01", "é, ü and 🎉", "", "{}"]
    job_id = insert(
        admin,
        Plan(
            workflow_id="w/1",
            workflow_name='the "first"',
            name=names[0],
            deps=tuple(names[1:]),
            ignore=(Cause.CANCELLED, Cause.DELETED),
        ).to_meta(),
        "suspended",
    )
    [recorded] = await bench.store.history(job_id)
    assert recorded.plan.deps == tuple(names[1:])
    [[stored]] = admin.execute("SELECT plan FROM signal_ledger.events").fetchall()
    assert stored == recorded.plan.text


async def test_f4_steps_are_found_by_their_workflow_in_the_order_of_their_jobs(bench):
    assert await bench.store.steps("w") == []
    await bench.insert(plan=plan("z", "not there"))
    await bench.insert(plan=plan("a"))
    assert [(seen.name, seen.state, seen.open_deps) for seen in await bench.store.steps("w")] == [
        ("z", "suspended", ("not there",)),
        ("a", "available", ()),
    ]


# Who releases.


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("acknowledged", "completed"),
        ("operator completes", "completed"),
        ("acknowledged as cancelled", "cancelled"),
        ("cancelled", "cancelled"),
        ("operator cancels", "cancelled"),
        ("discarded", "discarded"),
        ("rescued", "discarded"),
        ("deleted", "deleted"),
        ("operator deletes", "deleted"),
    ],
)
@pytest.mark.parametrize("ignores", [True, False])
async def test_f2_f3_whatever_path_ends_a_dep_its_dependant_hears_of_it(bench, admin, path, cause, ignores):
    dep = await bench.insert(plan=plan("dep"), max_attempts=1)
    ignore = ("cancelled", "discarded", "deleted") if ignores else ()
    held = await bench.insert(plan=plan("held", "dep", ignore=ignore))
    match path:
        case "acknowledged":
            await finish(bench, dep)
        case "acknowledged as cancelled":
            await finish(bench, dep, JobState.CANCELLED)
        case "discarded":
            await finish(bench, dep, JobState.DISCARDED)
        case "cancelled":
            await bench.cancel(dep)
        case "deleted":
            await bench.delete(dep)
        case "rescued":
            await executing(bench, dep)
            bench.clock.advance(1)
            await bench.rescue()
        case "operator deletes":
            admin.execute("DELETE FROM oban_jobs WHERE id = %s", [dep])
        case _:
            admin.execute(MARK, [cause, [dep]])
    if cause == "completed":
        assert (state(admin, held), await kinds(bench, held)) == ("available", ["planned", "released"])
    elif ignores:
        assert (state(admin, held), await kinds(bench, held)) == ("available", ["planned", "skipped", "released"])
    else:
        assert (state(admin, held), await kinds(bench, held)) == ("cancelled", ["planned", "cascaded", "closed"])
        assert (await bench.store.history(held))[1].cause == cause


async def test_f2_snoozing_is_no_end_and_pruning_no_deletion(bench, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    late = await bench.insert(plan=plan("late", "dep", "more"))
    execution = await executing(bench, dep)
    await bench.sleep(dep, execution)
    assert state(admin, held) == "suspended"
    await bench.retry(dep)
    await finish(bench, dep)
    await bench.prune()
    assert (state(admin, dep), state(admin, held), state(admin, late)) == (None, "available", "suspended")
    [seen, *_] = await bench.store.steps("w")
    assert (seen.state, seen.has_job) == ("completed", False)
    # A dep that was pruned has ended, for those that come later, too.
    assert state(admin, await bench.insert(plan=plan("later", "dep"))) == "available"


async def test_f2_a_step_that_is_planned_for_later_is_released_into_its_schedule(bench, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"), scheduled_in=60)
    await finish(bench, dep)
    assert state(admin, held) == "scheduled"


async def test_f2_a_release_tells_obans_queue_once(bench, ledger_url, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = [await bench.insert(plan=plan(f"held {number}", "dep")) for number in range(5)]
    admin.execute("UPDATE oban_jobs SET queue = 'of all' WHERE id = ANY (%s)", [held])
    async with await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as listener:
        await listener.execute('LISTEN "public.oban_insert"')
        await finish(bench, dep)
        heard = [notice.payload async for notice in listener.notifies(timeout=5, stop_after=1)]
        assert heard == ['{"queue" : "of all"}']
        assert [notice async for notice in listener.notifies(timeout=0)] == []


async def test_f3_a_cascade_goes_through_a_thousand_levels_in_the_transaction_of_its_cause(bench, admin):
    with admin.transaction():
        job_ids = [insert(admin, meta("step 0"))]
        for number in range(1, 1000):
            job_ids.append(insert(admin, meta(f"step {number}", f"step {number - 1}"), "suspended"))
    admin.execute(MARK, ["discarded", [job_ids[0]]])
    assert {state(admin, job_id) for job_id in job_ids[1:]} == {"cancelled"}
    assert await kinds(bench, job_ids[-1]) == ["planned", "cascaded", "closed"]
    assert {seen.step.ended_as for seen in await bench.store.steps("w")} == {"discarded", "cancelled"}


async def test_f2_steps_that_end_in_one_transaction_are_told_of_once_at_its_commit(bench, admin, connect):
    deps = [await bench.insert(plan=plan(name)) for name in ("a", "b", "c")]
    held = await bench.insert(plan=plan("held", "a", "b", "c", ignore=("cancelled",)))
    one = connect()
    one.execute(MARK, ["completed", deps[1:2]])
    one.execute(MARK, ["cancelled", deps[2:]])
    one.execute(MARK, ["completed", deps[:1]])
    one.commit()
    assert [(event.kind, event.dep) for event in await bench.store.history(held)][1:] == [
        ("skipped", "c"),
        ("released", "c"),
    ]
    assert state(admin, held) == "available"


async def test_f3_whoever_is_cancelled_together_was_cancelled_by_nobody(bench, admin):
    job_ids = [await bench.insert(plan=plan(name, *deps)) for name, deps in (("a", []), ("b", ["a"]), ("c", ["b"]))]
    bench._oban("cancel_many_jobs", ids=job_ids)
    for job_id in job_ids:
        assert await kinds(bench, job_id) == ["planned", "closed"]


async def test_f2_what_is_rolled_back_has_released_nobody(bench, admin, connect):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    one = connect()
    one.execute("SAVEPOINT before")
    one.execute(MARK, ["cancelled", [dep]])
    one.execute("ROLLBACK TO SAVEPOINT before")
    one.execute(MARK, ["completed", [dep]])
    one.rollback()
    assert (state(admin, dep), state(admin, held)) == ("available", "suspended")
    await finish(bench, dep)
    assert state(admin, held) == "available"


# Two at once.


@pytest.mark.parametrize("first", [0, 1])
async def test_f2_two_deps_that_end_at_once_strand_nobody(bench, admin, connect, ledger_url, first):
    """The second one waits for the first at their dependant, and sees what it left."""
    deps = [await bench.insert(plan=plan(name)) for name in ("a", "b")]
    held = await bench.insert(plan=plan("held", "a", "b"))
    one, other = connect(), connect()
    one.execute(MARK, ["completed", [deps[first]]])
    other.execute(MARK, ["completed", [deps[1 - first]]])
    # Its dependants are told, and its locks are held, before it commits.
    one.execute("SET CONSTRAINTS ALL IMMEDIATE")
    second = asyncio.create_task(asyncio.to_thread(other.commit))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    assert state(admin, held) == "suspended"
    one.commit()
    await second
    assert state(admin, held) == "available"
    assert [event.dep for event in await bench.store.history(held)] == [None, ("b", "a")[first]]


async def test_f2_a_dep_whose_end_is_rolled_back_keeps_the_dependant_held(bench, admin, connect, ledger_url):
    deps = [await bench.insert(plan=plan(name)) for name in ("a", "b")]
    held = await bench.insert(plan=plan("held", "a", "b"))
    one, other = connect(), connect()
    one.execute(MARK, ["completed", deps[:1]])
    one.execute("SET CONSTRAINTS ALL IMMEDIATE")
    other.execute(MARK, ["completed", deps[1:]])
    second = asyncio.create_task(asyncio.to_thread(other.commit))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.rollback()
    await second
    assert state(admin, held) == "suspended"
    await finish(bench, deps[0])
    assert state(admin, held) == "available"


async def test_f2_ends_in_opposite_orders_do_not_deadlock(bench, admin, connect, ledger_url):
    """Four deps and two dependants, crosswise: locks are taken at the commit, in the order of the jobs."""
    deps = [await bench.insert(plan=plan(name)) for name in "abcd"]
    held = [await bench.insert(plan=plan(name, *on)) for name, on in (("one", "ad"), ("other", "bc"))]
    one, other = connect(), connect()
    for connection, names in ((one, (0, 2)), (other, (1, 3))):
        for number in names:
            connection.execute(MARK, ["completed", [deps[number]]])
    one.execute("SET CONSTRAINTS ALL IMMEDIATE")
    second = asyncio.create_task(asyncio.to_thread(other.commit))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.commit()
    await second
    assert [state(admin, job_id) for job_id in held] == ["available"] * 2
    [[deadlocks]] = admin.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0


async def test_f2_a_step_that_comes_while_its_dep_ends_is_released(bench, admin, connect, ledger_url):
    dep = await bench.insert(plan=plan("dep"))
    one, other = connect(), connect()
    one.execute(MARK, ["completed", [dep]])
    inserting = asyncio.create_task(asyncio.to_thread(insert, other, meta("held", "dep"), "suspended"))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.commit()
    held = await inserting
    other.commit()
    assert state(admin, held) == "available"


async def test_f2_a_dep_that_ends_while_its_dependant_comes_releases_it(bench, admin, connect, ledger_url):
    dep = await bench.insert(plan=plan("dep"))
    one, other = connect(), connect()
    held = insert(one, meta("held", "dep"), "suspended")
    ending = asyncio.create_task(asyncio.to_thread(other.execute, MARK, ["completed", [dep]]))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.commit()
    await ending
    other.commit()
    assert state(admin, held) == "available"


async def test_f2_a_dep_that_comes_after_its_dependant_waits_for_it_to_be_seen(bench, admin, connect, ledger_url):
    """Else it could run and end before anybody sees who depends on it."""
    one, other = connect(), connect()
    held = insert(one, meta("held", "dep"), "suspended")
    inserting = asyncio.create_task(asyncio.to_thread(insert, other, meta("dep")))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.commit()
    dep = await inserting
    other.commit()
    await finish(bench, dep)
    assert state(admin, held) == "available"


async def test_f2_a_dependant_that_is_cancelled_while_it_is_released_has_one_fate(bench, admin, connect, ledger_url):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    last = await bench.insert(plan=plan("last", "held"))
    one, other = connect(), connect()
    one.execute(MARK, ["cancelled", [held]])
    other.execute(MARK, ["completed", [dep]])
    releasing = asyncio.create_task(asyncio.to_thread(other.commit))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.commit()
    await releasing
    assert (state(admin, held), state(admin, last)) == ("cancelled", "cancelled")
    assert await kinds(bench, held) == ["planned", "closed"]


async def test_f1_a_dependant_that_an_operator_retries_while_it_is_released_is_not_released(
    bench, admin, connect, ledger_url
):
    """It may have begun to execute by then, and must not be made available again."""
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    one, other = connect(), connect()
    one.execute(MARK, ["available", [held]])
    other.execute(MARK, ["completed", [dep]])
    releasing = asyncio.create_task(asyncio.to_thread(other.commit))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.execute(MARK, ["executing", [held]])
    one.commit()
    await releasing
    assert (state(admin, held), await kinds(bench, held)) == ("executing", ["planned"])


async def test_f2_a_signal_that_comes_while_a_step_is_released_and_the_release_do_not_disturb_each_other(
    bench, admin, connect, ledger_url
):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    one, other = connect(), connect()
    one.execute("SELECT signal_ledger.signal(%s, '\\x836a')", [held])
    other.execute(MARK, ["completed", [dep]])
    releasing = asyncio.create_task(asyncio.to_thread(other.commit))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.commit()
    await releasing
    assert (state(admin, held), await kinds(bench, held)) == ("available", ["planned", "delivered", "released"])
    assert admin.execute("SELECT * FROM signal_ledger.repairs").fetchall() == []


# Retries.


async def test_f2_a_dep_that_is_retried_by_hand_tells_nobody_again(bench, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep", "more"))
    await finish(bench, dep)
    await bench.retry(dep)
    assert (await bench.store.steps("w"))[0].step.ended_as is None
    await finish(bench, dep, JobState.CANCELLED)
    assert state(admin, held) == "suspended"
    assert (await bench.store.steps("w"))[1].step.held == 1
    assert (await bench.store.steps("w"))[0].step.ended_as == "cancelled"


async def test_f1_only_an_operator_makes_a_step_run_before_its_deps(bench, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    await bench.retry(held)
    assert state(admin, held) == "available"
    await finish(bench, held)
    await bench.cancel(dep)
    assert (state(admin, held), await kinds(bench, held)) == ("completed", ["planned", "closed"])


async def test_f5_a_workflow_is_taken_up_again_where_it_failed(bench, admin, ledger_url):
    names = {}
    for name, *deps in (("a",), ("b", "a"), ("c", "b"), ("d", "a")):
        names[name] = await bench.insert(plan=plan(name, *deps))
    await finish(bench, names["a"])
    await finish(bench, names["d"])
    await finish(bench, names["b"], JobState.DISCARDED)
    chosen = steps_to_retry(await bench.store.steps("w"))
    assert chosen == ("b", "c")
    assert await bench.store.retry_steps("w", chosen) == 2
    assert [state(admin, names[name]) for name in "abcd"] == ["completed", "available", "suspended", "completed"]
    await finish(bench, names["b"])
    assert await kinds(bench, names["c"]) == ["planned", "cascaded", "closed", "planned", "released"]
    assert await bench.store.retry_steps("w", ["a", "unknown"]) == 0
    assert await bench.store.retry_steps("unknown", ["a"]) == 0


async def test_f2_a_dep_that_ends_while_its_dependant_is_taken_up_again_releases_it(bench, admin, connect, ledger_url):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    await bench.cancel(held)
    one, other = connect(), connect()
    one.execute("SELECT signal_ledger.retry_steps('w', '{held}')")
    other.execute(MARK, ["completed", [dep]])
    ending = asyncio.create_task(asyncio.to_thread(other.commit))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    one.commit()
    await ending
    assert state(admin, held) == "available"
    assert await kinds(bench, held) == ["planned", "closed", "planned", "released"]


async def test_f3_steps_taken_up_in_the_transaction_of_their_end_are_not_cancelled_for_it(bench, admin, connect):
    dep, held = await bench.insert(plan=plan("dep")), await bench.insert(plan=plan("held", "dep"))
    one = connect()
    one.execute(MARK, ["cancelled", [dep]])
    one.execute("SELECT signal_ledger.retry_steps('w', '{dep, held}')")
    one.commit()
    assert (state(admin, dep), state(admin, held)) == ("available", "suspended")
    await finish(bench, dep)
    assert await kinds(bench, held) == ["planned", "cascaded", "closed", "planned", "released"]


async def test_f5_rebuilding_keeps_the_end_of_a_dep_that_came_while_its_dependant_was_retried(bench, admin, connect):
    failed, dep, other = insert(admin, meta("failed")), insert(admin, meta("dep")), insert(admin, meta("other"))
    held = insert(admin, meta("held", "failed", "dep", "other"), "suspended")
    admin.execute(MARK, ["cancelled", [failed]])
    acknowledging = connect()
    acknowledging.execute(MARK, ["completed", [dep]])
    await bench.store.retry_steps("w", ["failed", "held"])
    acknowledging.commit()
    await bench.store.rebuild()
    admin.execute(MARK, ["completed", [failed]])
    admin.execute(MARK, ["completed", [other]])
    assert state(admin, held) == "available"


async def test_f5_rebuilding_cancels_nobody_that_came_while_a_dep_was_taken_up_again(bench, admin, connect, ledger_url):
    dep, held = insert(admin, meta("dep")), insert(admin, meta("held", "dep"), "suspended")
    admin.execute(MARK, ["cancelled", [dep]])
    gate, other = connect(), connect()
    gate.execute("SELECT FROM signal_ledger.edges WHERE dep = 'dep' FOR UPDATE")
    retrying = asyncio.create_task(bench.store.retry_steps("w", ["dep", "held"]))
    await eventually(lambda: waiting_backends(ledger_url) == 1)
    coming = asyncio.create_task(asyncio.to_thread(insert, other, meta("late", "dep"), "suspended"))
    await eventually(lambda: waiting_backends(ledger_url) == 2)
    gate.rollback()
    await retrying
    late = await coming
    other.commit()
    await bench.store.rebuild()
    assert [state(admin, job_id) for job_id in (dep, held, late)] == ["available", "suspended", "suspended"]


# Signals.


async def test_f4_a_held_step_keeps_its_signals(bench, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    assert (await bench.signaller.send(held, "early")).outcome == "buffered"
    assert state(admin, held) == "suspended"
    await finish(bench, dep)
    assert (await bench.store.state(held)).inboxes[0].pending == 1


# Faults.


async def repaired(admin):
    admin.execute("UPDATE signal_ledger.repairs SET noted_at = clock_timestamp()")
    admin.execute("SELECT signal_ledger.repair(10)")
    assert admin.execute("SELECT * FROM signal_ledger.repairs").fetchall() == []


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_f2_an_end_at_another_isolation_level_is_noted_and_told_of_by_the_upkeep(
    bench, admin, connect, isolation
):
    deps = [await bench.insert(plan=plan(name)) for name in ("a", "b")]
    held = await bench.insert(plan=plan("held", "a", "b"))
    one = connect()
    one.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    one.execute("SELECT FROM signal_ledger.steps")
    await finish(bench, deps[1])
    one.execute(MARK, ["completed", deps[:1]])
    one.commit()
    assert state(admin, held) == "suspended"
    await repaired(admin)
    assert (state(admin, held), await kinds(bench, deps[0])) == ("available", ["planned", "closed"])


@pytest.mark.parametrize("gone", ["tell_dependants", "end_step", "announce", "checksum_of_step", "close"])
async def test_l3_a_fault_among_the_steps_stops_no_statement_of_obans(bench, admin, gone):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    admin.execute(f"ALTER FUNCTION signal_ledger.{gone} RENAME TO elsewhere")
    await bench.cancel(await bench.insert())
    await finish(bench, dep)
    assert (state(admin, dep), state(admin, held)) == ("completed", "suspended")
    admin.execute(f"ALTER FUNCTION signal_ledger.elsewhere RENAME TO {gone}")
    # The closing itself may have succeeded.
    assert (dep, "completed") in admin.execute("SELECT job_id, cause FROM signal_ledger.repairs").fetchall()
    await repaired(admin)
    assert (state(admin, held), await kinds(bench, held)) == ("available", ["planned", "released"])
    assert await kinds(bench, dep) == ["planned", "closed"]


async def test_l3_a_job_that_is_retried_before_its_end_was_told_of_is_told_of_first(bench, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    admin.execute("ALTER FUNCTION signal_ledger.tell_dependants RENAME TO elsewhere")
    await finish(bench, dep)
    admin.execute("ALTER FUNCTION signal_ledger.elsewhere RENAME TO tell_dependants")
    await bench.retry(dep)
    assert state(admin, held) == "available"
    assert admin.execute("SELECT * FROM signal_ledger.repairs").fetchall() == []


async def test_l3_the_upkeep_does_not_wait_for_a_dependant_that_somebody_holds(bench, admin, connect):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    admin.execute("ALTER FUNCTION signal_ledger.tell_dependants RENAME TO elsewhere")
    await finish(bench, dep)
    admin.execute("ALTER FUNCTION signal_ledger.elsewhere RENAME TO tell_dependants")
    holder = connect()
    holder.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held])
    await asyncio.wait_for(bench.store.tick(), 4)
    assert state(admin, held) == "suspended"
    holder.rollback()
    await bench.store.tick()
    assert state(admin, held) == "available"


async def test_l8_a_step_whose_stream_is_a_newer_librarys_goes_on_all_the_same(bench, admin):
    dep = await bench.insert(plan=plan("dep"))
    held = await bench.insert(plan=plan("held", "dep"))
    admin.execute("UPDATE signal_ledger.waits SET schema_version = 3 WHERE job_id = %s", [held])
    await finish(bench, dep)
    assert state(admin, held) == "available"
    admin.execute("UPDATE signal_ledger.waits SET schema_version = 2 WHERE job_id = %s", [held])
    assert await kinds(bench, held) == ["planned"]


# Rebuilding.


async def test_f5_steps_and_edges_are_rebuilt_from_the_log(bench, admin):
    names = {}
    for name, *deps in (("a",), ("b", "a"), ("c", "b", "later"), ("d", "a", "e"), ("later",), ("e",)):
        names[name] = await bench.insert(plan=plan(name, *deps, ignore=("discarded",)))
    await finish(bench, names["a"])
    await finish(bench, names["b"], JobState.DISCARDED)
    await bench.delete(names["e"])
    await bench.prune()
    before = await bench.store.steps("w")
    admin.execute("TRUNCATE signal_ledger.steps, signal_ledger.edges")
    await bench.store.rebuild()
    assert await bench.store.steps("w") == before
    await bench.store.rebuild()
    assert await bench.store.steps("w") == before


@pytest.mark.parametrize("end", [JobState.COMPLETED, JobState.CANCELLED])
async def test_f5_a_step_whose_last_dep_ended_while_its_edges_were_lost_is_told_of_it_by_the_rebuild(bench, admin, end):
    dep = await bench.insert(plan=plan("dep"))
    before = await bench.insert(plan=plan("before"))
    held = await bench.insert(plan=plan("held", "before", "dep"))
    await finish(bench, before)
    admin.execute("TRUNCATE signal_ledger.steps, signal_ledger.edges")
    await finish(bench, dep, end)
    assert state(admin, held) == "suspended"
    await bench.store.rebuild()
    told = "released" if end is JobState.COMPLETED else "cascaded"
    assert state(admin, held) == ("available" if end is JobState.COMPLETED else "cancelled")
    assert (await kinds(bench, held))[1] == told


# Ends that are told of late, and jobs that have gone on meanwhile.


@pytest.fixture
def impatient(ledger_url):
    with psycopg.connect(ledger_url, options="-c lock_timeout=50ms", autocommit=True) as connection:
        yield connection


def pair(admin):
    dep = insert(admin, meta("dep"))
    return dep, insert(admin, meta("held", "dep"), "suspended")


async def test_l3_a_signal_to_a_job_that_was_retried_before_its_end_was_told_is_kept(bench, admin, connect, impatient):
    dep, held = pair(admin)
    holder = connect()
    holder.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held])
    impatient.execute(MARK, ["cancelled", [dep]])
    impatient.execute(MARK, ["available", [dep]])
    receipt = await bench.signaller.send(dep, "precious")
    assert receipt.outcome == "buffered"
    holder.rollback()
    admin.execute("SELECT signal_ledger.repair(100)")
    assert await kinds(bench, dep) == ["planned", "closed", "planned", "delivered"]
    assert state(admin, held) == "cancelled"
    [step, _] = await bench.store.steps("w")
    assert (step.name, step.step.ended_as) == ("dep", None)
    await finish(bench, dep)
    assert (await Ledger(bench.store, None).verify()).ok


async def test_l3_so_is_one_to_a_job_that_ended_and_was_retried_at_repeatable_read(bench, admin, connect):
    dep, held = pair(admin)
    strict = connect()
    strict.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    strict.execute(MARK, ["cancelled", [dep]])
    strict.commit()
    strict.execute("SELECT FROM oban_jobs")
    admin.execute("UPDATE oban_jobs SET priority = 1 WHERE id = %s", [held])
    strict.execute(MARK, ["available", [dep]])
    strict.commit()
    await bench.signaller.send(dep, "precious")
    admin.execute("SELECT signal_ledger.repair(100)")
    assert await kinds(bench, dep) == ["planned", "closed", "planned", "delivered"]
    assert state(admin, held) == "cancelled"
    await finish(bench, dep)
    assert (await Ledger(bench.store, None).verify()).ok


async def test_f5_an_end_that_was_noted_is_told_of_before_the_workflow_is_retried(bench, admin, connect, impatient):
    dep, held = pair(admin)
    holder = connect()
    holder.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held])
    impatient.execute(MARK, ["cancelled", [dep]])
    holder.rollback()
    assert await bench.store.retry_steps("w", ["dep", "held"]) == 2
    assert await kinds(bench, dep) == ["planned", "closed", "planned"]
    assert await kinds(bench, held) == ["planned", "cascaded", "closed", "planned"]
    assert (state(admin, dep), state(admin, held)) == ("available", "suspended")
    assert admin.execute("SELECT * FROM signal_ledger.repairs").fetchall() == []
    assert (await Ledger(bench.store, None).verify()).ok


async def test_f2_of_a_dep_that_ends_twice_in_a_transaction_the_first_end_counts(bench, admin, connect):
    deps = [insert(admin, meta(f"dep {number}")) for number in range(30)]
    held = [insert(admin, meta(f"held {number}", f"dep {number}"), "suspended") for number in range(30)]
    one = connect()
    for ended_as in ("completed", "available", "cancelled"):
        one.execute(MARK, [ended_as, deps])
    one.commit()
    assert {state(admin, job_id) for job_id in held} == {"available"}


@pytest.mark.parametrize(
    ("deps", "job_state"), [([], "suspended"), (["dep"], "available"), ([], "completed"), (["dep"], "cancelled")]
)
def test_f1_a_step_in_a_state_that_does_not_fit_its_deps_is_refused(admin, deps, job_state):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="signal_ledger F1: workflow w, step step: expected"):
        insert(admin, meta("step", *deps), job_state)
    assert admin.execute("SELECT id FROM oban_jobs").fetchall() == []


def test_f5_a_step_cannot_wait_for_itself(admin):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"signal_ledger F5: .* cannot wait for itself"):
        insert(admin, {**meta("dep"), "name": "step", "deps": ["step"]}, "suspended")


@pytest.mark.timeout(60)
async def test_l3_whoever_holds_a_dependant_does_not_hold_up_a_commit_for_long(bench, admin, connect, ledger_url):
    dep, held = pair(admin)
    holder = connect()
    holder.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held])
    with psycopg.connect(ledger_url, autocommit=True) as other:
        await asyncio.to_thread(other.execute, MARK, ["completed", [dep]])
    assert (state(admin, dep), state(admin, held)) == ("completed", "suspended")
    holder.rollback()
    await bench.store.tick()
    assert state(admin, held) == "available"
