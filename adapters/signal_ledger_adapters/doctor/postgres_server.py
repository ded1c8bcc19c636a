"""The doctor on PostgreSQL: the server, and what lies between it and this process."""

import asyncio
import time
from uuid import uuid4

import asyncpg

from signal_ledger_adapters.doctor.check import Check, finding, note, ok, told_span
from signal_ledger_adapters.doctor.visit import Visit
from signal_ledger_adapters.postgres.pooler import PARAMETER, is_direct

OLDEST = 15
"""The oldest PostgreSQL that is tested."""

APART_S = 1.0
"""How far the clocks of this process and of the server may differ."""

SETTINGS = ("fsync", "full_page_writes", "synchronous_commit", "wal_level", "data_checksums")
"""The settings that durability depends on."""

_ROUNDS = 5
"""How often the clock is asked for."""

_HINT_S = 2.0

_CHANNEL_BYTES_MAX = 63

_NEEDED_BEHIND_POOLER = (
    f"give the ledger ?{PARAMETER}=0 in the URL, and the pool of an Oban kwargs={{'prepare_threshold': None}}"
)


async def check_version(visit: Visit) -> Check:
    """Check the version of the server."""
    release = await visit.driver.fetchval("SELECT current_setting('server_version')")
    # Distributors put words of their own behind it.
    found = f"PostgreSQL {release.partition(' ')[0]}"
    if visit.driver.get_server_version().major < OLDEST:
        return finding("version", f"{found}: expected {OLDEST} or newer", "upgrade the server")
    return ok("version", found)


async def check_pooler(visit: Visit) -> Check:
    """Check whether a pooler is in between, and whether the URL says so if it must."""
    if await is_direct(visit.driver):
        if visit.says_pooler:
            return note(
                "pooler",
                f"the URL says {PARAMETER}=0, but the connection leads to the server itself",
                f"leave {PARAMETER}=0 out: every statement is planned anew with it",
            )
        return ok("pooler", "the connection leads to the server itself")
    visit.shares_sessions = await _shares_sessions(visit)
    if not visit.shares_sessions:
        return ok("pooler", "there is a pooler of sessions in between, which needs nothing")
    if visit.says_pooler:
        return ok("pooler", f"there is a pooler of transactions in between, and the URL says so ({PARAMETER}=0)")
    return finding(
        "pooler",
        f"there is a pooler of transactions in between: expected ?{PARAMETER}=0 in the URL, without which settings and "
        "prepared statements go astray",
        f"{_NEEDED_BEHIND_POOLER}; or connect to the server itself, or to a pool of sessions",
    )


async def _shares_sessions(visit: Visit) -> bool:
    """Say whether the transactions of one connection run in several sessions, or those of several in the same one.

    Nothing is left behind in a session to find that out; and none is held while another one is waited for, which a
    pool of one session would never give.
    """
    one, other = visit.driver, visit.other.driver
    seen: dict[asyncpg.Connection, set[int]] = {one: set(), other: set()}
    # Not by turns: so a pool that goes around might give each the same session again and again.
    for connection in (one, other, other, one, one, one, other, other):
        seen[connection].add(await connection.fetchval("SELECT pg_backend_pid()"))
    return len(seen[one]) > 1 or len(seen[other]) > 1 or seen[one] == seen[other]


async def check_standby(visit: Visit) -> Check:
    """Check whether the server may be written to."""
    visit.on_standby = await visit.driver.fetchval("SELECT pg_is_in_recovery()")
    if visit.on_standby:
        return finding(
            "standby",
            "the server is a standby, which follows another one: it can be audited, and nothing can be signalled",
            "name the primary in the URL to signal and to run jobs; of several hosts, target_session_attrs=read-write "
            "picks it",
        )
    return ok("standby", "the server is a primary")


async def check_setting(name: str, visit: Visit) -> Check:
    """Check a setting that durability depends on."""
    value = await visit.driver.fetchval("SELECT s.setting FROM pg_settings AS s WHERE s.name = $1", name)
    told = f"{name} is {value}"
    match name, value:
        case ("fsync" | "full_page_writes", "off"):
            return finding(
                name,
                f"{told}, expected on: a power cut loses what was acknowledged, and may destroy the database",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf(); then take a new backup",
            )
        case ("synchronous_commit", "off" | "local" | "remote_write"):
            return note(
                name,
                f"{told}; what the ledger records is committed with on all the same",
                "nothing for the ledger; your own changes may be lost in a power cut",
            )
        case ("wal_level", "minimal"):
            return note(
                name, f"{told}: there can be neither a standby nor a recovery to a point in time", "set it to replica"
            )
        case ("data_checksums", "off"):
            return note(
                name,
                f"{told}: the server does not notice pages that the disk has damaged; of events, verify() does",
                "stop the server and run pg_checksums --enable",
            )
        case _:
            return ok(name, told)


async def check_clock(visit: Visit) -> Check:
    """Check that this machine and the server agree on the time. Half of each round trip is not known."""
    apart_s, unknown_s = 0.0, float("inf")
    for _ in range(_ROUNDS):
        began = time.time()
        there = float(await visit.driver.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
        ended = time.time()
        if (ended - began) / 2 < unknown_s:
            apart_s, unknown_s = there - (began + ended) / 2, (ended - began) / 2
    told = (
        f"{told_span(abs(apart_s))} {'ahead of' if apart_s > 0 else 'behind'} this machine's (± {told_span(unknown_s)})"
    )
    if abs(apart_s) - unknown_s > APART_S:
        return finding(
            "clock",
            f"expected both clocks to agree, but the server's is {told}",
            "have both set by NTP. Deadlines go by the server's clock; scheduled_in= and what you compare deadline_at "
            "with go by this one",
        )
    return ok("clock", f"the server's clock is {told}")


async def check_hints(visit: Visit) -> Check:
    """Check that notifications arrive, on a channel of our own and on that of the ledger."""
    if visit.shares_sessions:
        return note(
            "hints",
            "hints do not arrive through a pooler of transactions: everything works, up to a second later",
            "nothing; or, where a second matters, have Oban connect to the server itself, or to a pool of sessions",
        )
    if len(_channel(visit).encode()) > _CHANNEL_BYTES_MAX:
        return note(
            "hints",
            f"hints are not sent: PostgreSQL has no channels of more than {_CHANNEL_BYTES_MAX} bytes, which "
            f"{_channel(visit)} would be; everything works, up to a second later",
            "nothing; or, where a second matters, use a shorter prefix for Oban",
        )
    token = uuid4().hex
    took_s = {}
    for channel, send in _ways(visit, token):
        took_s[channel] = await _arrival(visit, channel, send, token)
    lost = [channel for channel, seconds in took_s.items() if seconds is None]
    if lost:
        return finding(
            "hints",
            f"expected a notification to arrive, but on {' and '.join(lost)} none did: everything works, up to a "
            "second later",
            "find out what is between this process and the server, and drops notifications",
        )
    told = [f"{told_span(seconds)} on {channel}" for channel, seconds in took_s.items() if seconds is not None]
    return ok("hints", f"a hint arrives after {' and after '.join(told)}")


def _channel(visit: Visit) -> str:
    return f"{visit.names.oban_prefix}.oban_signal_ledger"


def _ways(visit: Visit, token: str) -> list[tuple[str, str]]:
    """Return the channels, and the statements that send a token there. A real hint is sent by the function."""
    own = f"signal_ledger_doctor_{token[:8]}"
    ways = [(own, f"SELECT pg_notify('{own}', $1)")]
    if visit.installed is not None:
        # As attach does to test itself. Who listens there leaves alone what is none of its own tests.
        ways.append(
            (_channel(visit), visit.sql("SELECT ledger.notify('signal_ledger', json_build_object('test', $1::text))"))
        )
    return ways


async def _arrival(visit: Visit, channel: str, send: str, token: str) -> float | None:
    """Return after how many seconds a notification arrives; None if it does not."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[float] = loop.create_future()

    def on_notification(_connection: object, _pid: int, _channel: str, payload: str) -> None:
        if token in payload and not arrived.done():
            arrived.set_result(loop.time())

    await visit.driver.add_listener(channel, on_notification)
    try:
        began = loop.time()
        await visit.other.driver.fetchval(send, token)
        await asyncio.wait([arrived], timeout=min(_HINT_S, visit.timeout_s / 3))
        return arrived.result() - began if arrived.done() else None
    finally:
        await visit.driver.remove_listener(channel, on_notification)
