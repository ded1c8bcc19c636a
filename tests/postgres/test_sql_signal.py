"""The door for other languages: the SQL function ``signal``, from psql, with terms of Erlang's own (D1 to D9)."""

import asyncio
import shutil
import subprocess
import uuid

import psycopg
import pytest

from signal_ledger import KeyConflict, open_ledger
from signal_ledger.codec import decode, encode
from signal_ledger.commands import Take
from signal_ledger.decisions import GotSignal
from tests.eventually import eventually

APPROVED = {"decision": "approved", "amount": 7}


def sent(psql, url, arguments, *, before="", after=""):
    """Call the function by psql and return the row that it prints: job, outcome, id, version, reason."""
    row = psql(url, f"{before}SELECT * FROM signal_ledger.signal({arguments});{after}").strip().split("|")
    return [cell or None for cell in row]


def term(value):
    return f"'\\x{encode(value).hex()}'"


@pytest.fixture
async def ledger(bench, ledger_url):
    """The ledger under test; in the end it must be whole."""
    async with open_ledger(ledger_url) as ledger:
        yield ledger
        report = await ledger.verify()
        assert report.ok, str(report)


@pytest.fixture(scope="session")
def erl():
    """Evaluate an Erlang expression and return the hexadecimal digits of the term."""
    program = shutil.which("erl")
    if program is None:
        pytest.skip("erl is not here")

    def evaluate(expression):
        script = f"io:put_chars(binary:encode_hex(term_to_binary({expression}))), halt()."
        done = subprocess.run([program, "-noshell", "-eval", script], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return evaluate


async def take(bench, job_id, execution, channel="", ordinal=1):
    asked = Take(
        job_id=job_id,
        execution=execution,
        channel=channel,
        ordinal=ordinal,
        wait_for=None,
        in_place=False,
        window=False,
    )
    reply = await bench.store.take(asked)
    assert isinstance(reply, GotSignal), reply
    return decode(reply.payload)


async def test_a_signal_for_later_is_kept_with_all_that_was_said(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    told = sent(psql, ledger_url, f"{job_id}, {term(APPROVED)}, 'votes', 'k1', 'a shell'")
    [event] = await ledger.history(job_id)
    assert told == [str(job_id), "buffered", event.signal_id, "1", None]
    assert uuid.UUID(event.signal_id).version == 4
    assert (event.payload, event.channel, event.key, event.source) == (APPROVED, "votes", "k1", "a shell")
    execution = await bench.fetch(job_id)
    assert await take(bench, job_id, execution, "votes") == APPROVED


async def test_a_snoozed_job_is_woken_and_gets_the_value(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    execution = await bench.fetch(job_id)
    await bench.sleep(job_id, execution)
    assert sent(psql, ledger_url, f"{job_id}, {term(APPROVED)}")[1] == "woken"
    assert (await bench.job(job_id)).state == "available"
    assert await take(bench, job_id, await bench.fetch(job_id)) == APPROVED


async def test_arguments_can_be_named(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    sent(psql, ledger_url, f"job_id => {job_id}, payload => {term(1)}, source => 'ada'")
    [event] = await ledger.history(job_id)
    assert (event.payload, event.channel, event.key, event.source) == (1, None, None, "ada")


async def test_a_job_that_has_ended_is_left_alone(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    await bench.cancel(job_id)
    assert sent(psql, ledger_url, f"{job_id}, {term(1)}") == [str(job_id), "ignored", None, None, "cancelled"]
    assert sent(psql, ledger_url, f"4711, {term(1)}") == ["4711", "ignored", None, None, "missing"]
    assert await ledger.history(job_id) == []


# Terms of Erlang's own: some in other bytes than this library's.
ERLANG = [
    ('#{<<"decision">> => <<"approved">>, <<"amount">> => 7}', APPROVED),
    (
        '#{<<"list">> => [1, 2, 3], <<"yes">> => true, <<"none">> => nil}',
        {"list": [1, 2, 3], "yes": True, "none": None},
    ),
    ("{1.5, -1, 1099511627776, [], [{}], <<255>>}", (1.5, -1, 2**40, [], [()], b"\xff")),
    ('<<"Grüße"/utf8>>', "Grüße"),
]


@pytest.mark.parametrize(("expression", "value"), ERLANG)
async def test_a_term_of_erlang_comes_back_equal(bench, ledger, ledger_url, psql, erl, expression, value):
    job_id = await bench.insert()
    assert sent(psql, ledger_url, f"{job_id}, '\\x{erl(expression)}', NULL, 'k'")[1] == "buffered"
    # The same again, by either door.
    assert sent(psql, ledger_url, f"{job_id}, '\\x{erl(expression)}', NULL, 'k'")[1] == "duplicate"
    assert (await ledger.signal(job_id, value, key="k")).outcome == "duplicate"
    with pytest.raises(KeyConflict):
        await ledger.signal(job_id, "another", key="k")
    assert await take(bench, job_id, await bench.fetch(job_id)) == value


# The same without Erlang: these are its bytes.
BYTES = [
    ("836b0003010203", [1, 2, 3]),
    ("83770474727565", True),
    ("8374000000026d000000016277047472756 56d00000001616b000101".replace(" ", ""), {"b": True, "a": [1]}),
]


@pytest.mark.parametrize(("digits", "value"), BYTES)
async def test_d6_other_bytes_of_an_equal_payload_are_a_duplicate(bench, ledger, ledger_url, psql, digits, value):
    job_id = await bench.insert()
    other = await bench.insert()
    first = sent(psql, ledger_url, f"{job_id}, '\\x{digits}', NULL, 'k'")
    told = await ledger.signal([other, job_id], value, key="k")
    assert [receipt.outcome for receipt in told] == ["buffered", "duplicate"]
    assert told[1].signal_id == first[2]
    with pytest.raises(KeyConflict, match="another payload"):
        await ledger.signal([other, job_id], "another", key="k")
    with pytest.raises(KeyConflict, match="another channel"):
        await ledger.signal(job_id, value, key="k", channel="votes")
    assert len(await ledger.history(job_id)) == len(await ledger.history(other)) == 1


@pytest.mark.parametrize("payload", [APPROVED, {"b": 1, "a": 2}, b"\xff", "é"])
async def test_d6_a_key_counts_whichever_door_it_came_by(bench, ledger, ledger_url, psql, payload):
    job_id = await bench.insert()
    receipt = await ledger.signal(job_id, payload, key="k")
    told = sent(psql, ledger_url, f"{job_id}, {term(payload)}, NULL, 'k'")
    assert told == [str(job_id), "duplicate", receipt.signal_id, "1", "pending"]
    await take(bench, job_id, await bench.fetch(job_id))
    assert sent(psql, ledger_url, f"{job_id}, {term(payload)}, NULL, 'k'")[4] == "consumed"
    for arguments, difference in [(f"{term('other')}, NULL", "payload"), (f"{term(payload)}, 'votes'", "channel")]:
        with pytest.raises(subprocess.CalledProcessError) as failed:
            sent(psql, ledger_url, f"{job_id}, {arguments}, 'k'")
        assert f"D6: the key was used for job {job_id} with another {difference}" in failed.value.stderr
        assert receipt.signal_id in failed.value.stderr
    assert [event.kind for event in await ledger.history(job_id)] == ["delivered", "consumed"]


async def test_d6_the_id_of_an_earlier_call_may_be_its_key(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    receipt = await ledger.signal(job_id, {"b": 1, "a": 2})
    told = sent(psql, ledger_url, f"{job_id}, {term({'b': 1, 'a': 2})}, NULL, '{receipt.signal_id}'")
    assert told[1:3] == ["duplicate", receipt.signal_id]
    by_sql = sent(psql, ledger_url, f"{job_id}, {term(1)}")
    assert (await ledger.signal(job_id, 1, key=by_sql[2])).outcome == "duplicate"
    assert len(await ledger.history(job_id)) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("{job}, NULL", "job_id and payload must not be NULL"),
        ("NULL, {term}", "job_id and payload must not be NULL"),
        ("{job}, ''", "D9: payload must be in Erlang's external term format, whose first byte is 131"),
        ("{job}, '\\x61'", "D9: payload must be in Erlang's external term format, whose first byte is 131"),
        ("{job}, {term} || decode(repeat('00', 16777216), 'hex')", "D9: payload has 16777219 bytes, at most 16777216"),
        ("{job}, {term}, ''", "channel must have 1 to 255 bytes, or be NULL"),
        ("{job}, {term}, repeat('é', 128)", "channel must have 1 to 255 bytes, or be NULL"),
        ("{job}, {term}, NULL, ''", "key must have 1 to 255 bytes, or be NULL"),
        ("{job}, {term}, NULL, repeat('x', 256)", "key must have 1 to 255 bytes, or be NULL"),
        ("{job}, {term}, NULL, NULL, ''", "source must have 1 to 255 bytes, or be NULL"),
    ],
)
async def test_bad_arguments_are_refused_and_nothing_is_written(bench, ledger, ledger_url, psql, arguments, complaint):
    job_id = await bench.insert()
    with pytest.raises(subprocess.CalledProcessError) as failed:
        sent(psql, ledger_url, arguments.format(job=job_id, term=term(1)))
    assert complaint in failed.value.stderr
    assert await ledger.history(job_id) == []


async def test_the_longest_arguments_are_accepted(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    long = "repeat('é', 127) || 'x'"
    assert sent(psql, ledger_url, f"{job_id}, {term(1)}, {long}, {long}, {long}")[1] == "buffered"
    assert (await ledger.history(job_id))[0].key == "é" * 127 + "x"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_another_isolation_level_is_refused_with_the_reason(bench, ledger, ledger_url, psql, level):
    job_id = await bench.insert()
    with pytest.raises(subprocess.CalledProcessError) as failed:
        psql(
            ledger_url,
            f"BEGIN ISOLATION LEVEL {level}; SELECT signal_ledger.signal({job_id}, {term(1)}); COMMIT;",
            one_transaction=False,
        )
    assert f"W5: expected a transaction of isolation level READ COMMITTED, this one is {level}" in failed.value.stderr
    assert "wake-ups would be lost" in failed.value.stderr
    assert await ledger.history(job_id) == []


async def test_it_belongs_to_the_callers_transaction(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    psql(
        ledger_url,
        f"BEGIN; SELECT signal_ledger.signal({job_id}, {term('undone')}); ROLLBACK; "
        f"BEGIN; CREATE TABLE orders (id int); SELECT signal_ledger.signal({job_id}, {term('done')}); COMMIT;",
        one_transaction=False,
    )
    assert [event.payload for event in await ledger.history(job_id)] == ["done"]


async def test_it_holds_the_jobs_lock_until_the_caller_commits(bench, ledger, ledger_url):
    """As documented: others wait for it."""
    job_id = await bench.insert()
    async with await psycopg.AsyncConnection.connect(ledger_url) as caller:
        await caller.execute("SELECT signal_ledger.signal(%s, %s)", [job_id, encode("first")])
        second = asyncio.create_task(ledger.signal(job_id, "second"))
        with psycopg.connect(ledger_url, autocommit=True) as observer:
            blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
            await eventually(lambda: observer.execute(blocked, [caller.info.backend_pid]).fetchone() == (1,))
        assert await ledger.history(job_id) == []
        await caller.commit()
        assert (await second).version == 2
    assert [event.payload for event in await ledger.history(job_id)] == ["first", "second"]


async def test_d1_its_commit_is_durable_whatever_the_session_says(bench, ledger, ledger_url, psql):
    job_id = await bench.insert()
    shown = psql(
        ledger_url,
        f"SET synchronous_commit = off; BEGIN; SELECT signal_ledger.signal({job_id}, {term(1)}); "
        "SHOW synchronous_commit; COMMIT; SHOW synchronous_commit;",
        one_transaction=False,
    ).split()
    assert shown[-2:] == ["on", "off"]


async def test_l8_a_stream_of_a_newer_library_is_left_alone(bench, ledger_url, psql):
    job_id = await bench.insert()
    await bench.signaller.send(job_id, 1)
    psql(ledger_url, "UPDATE signal_ledger.waits SET schema_version = 3")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        sent(psql, ledger_url, f"{job_id}, {term(1)}")
    assert f"L8: a newer version of the library has written to the stream of job {job_id}" in failed.value.stderr
