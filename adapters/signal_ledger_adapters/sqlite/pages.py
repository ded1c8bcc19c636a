"""Pages of the log and of who waits, as queries: each looks at little more than it finds.

SQLite may have statistics or none, so it is told which index to use: `INDEXED BY` fails where that cannot be.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    column,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
)

from signal_ledger.cursors import cursor_position, cursor_wait
from signal_ledger.events import Kind
from signal_ledger.ports import EventFilter
from signal_ledger_adapters.queries import (
    FEW_WAITS_MAX,
    Branch,
    Deliveries,
    FromSource,
    OfKind,
    OnChannel,
    left_over,
    of_any,
)
from signal_ledger_adapters.sqlite.tables import Instant, event_columns, events, waits

BLOCK = 256
"""How many positions a block tells of; the schema and its queries have the same number."""

# Without a table, which the text of each query names itself.
_EVENT: dict[str, ColumnElement[Any]] = {one.name: column(one.name, one.type) for one in events.c}
_WAIT: dict[str, ColumnElement[Any]] = {one.name: column(one.name, one.type) for one in waits.c}


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where in the log a page can be.

    Args:
        behind: Behind this position.
        last: Up to this one; None for the end of the log.
        told: Up to here blocks tell of the log.
    """

    behind: int
    last: int | None = None
    told: int = 0


def stream_page(wanted: EventFilter, limit: int) -> Select[*tuple[Any, ...]]:
    """Read a page of a job's stream, by its versions."""
    query = select(*event_columns).where(events.c.job_id == wanted.job_id, *of_any(dict(events.c), wanted))
    query = query.order_by(events.c.version).limit(limit)
    if wanted.after is None:
        return query
    position = cursor_position(wanted.after)
    # The cursor is most likely one of this stream, whose index then leads behind it.
    version = select(events.c.version).where(events.c.position == position, events.c.job_id == wanted.job_id)
    return query.where(events.c.position > position, events.c.version > func.coalesce(version.scalar_subquery(), 0))


def log_page(wanted: EventFilter, places: Places, limit: int) -> Select[*tuple[Any, ...]]:
    """Read a page of the log itself."""
    query = select(*event_columns).where(*left_over(dict(events.c), None, wanted), *_between(events.c.position, places))
    return query.order_by(events.c.position).limit(limit)


def branches_page(parts: list[Branch], wanted: EventFilter, places: Places, limit: int) -> Select[*tuple[Any, ...]]:
    """Read a page that comes from several parts of the log: first its positions, then its events."""
    queries = [query for part in parts for query in _branch(part, wanted, places, limit)]
    each = [select(literal_column("position", Integer)).select_from(query.subquery()) for query in queries]
    found = union_all(*each).subquery()
    first = select(found.c.position).order_by(found.c.position).limit(limit)
    return select(*event_columns).where(events.c.position.in_(first)).order_by(events.c.position)


def _branch(part: Branch, wanted: EventFilter, places: Places, limit: int) -> list[Select[*tuple[Any, ...]]]:
    conditions = left_over(_EVENT, part, wanted)
    match part:
        case OfKind(kind=kind):
            index: str = "kind"
            own: list[Any] = [text("kind <> 'delivered'"), _EVENT["kind"] == kind]
        case OnChannel(channel=channel, kind=kind):
            # The first condition is the index's own, to the letter.
            index = "channel"
            own = [
                text("channel IS NOT NULL AND (channel <> '' OR kind <> 'delivered')"),
                _EVENT["channel"] == channel,
                _EVENT["kind"] == kind,
            ]
        case FromSource(source=source):
            index, own = "source", [_EVENT["source"] == source]
        case Deliveries(unnamed=unnamed):
            own = [_EVENT["kind"] == Kind.DELIVERED, *([_EVENT["channel"] == ""] if unnamed else [])]
            conditions = [*own, *conditions]
            return [_in_blocks(unnamed, conditions, places, limit), _in_tail(conditions, places, limit)]
        case _:
            assert_never(part)
    query = (
        select(_EVENT["position"])
        .select_from(text(f"signal_ledger_events INDEXED BY signal_ledger_events_{index}"))
        .where(*own, *conditions, *_between(_EVENT["position"], places))
    )
    return [query.order_by(_EVENT["position"]).limit(limit)]


def _in_blocks(unnamed: bool, conditions: list[Any], places: Places, limit: int) -> Select[*tuple[Any, ...]]:  # noqa: FBT001
    """Find deliveries in the blocks that have some."""
    name = "unnamed" if unnamed else "delivered"
    block, position = literal_column("block", Integer), _EVENT["position"]
    query = (
        select(position)
        .select_from(
            text(
                f"signal_ledger_blocks INDEXED BY signal_ledger_blocks_{name} "
                "CROSS JOIN signal_ledger_events NOT INDEXED"
            )
        )
        .where(
            text(f"{name} > 0"),
            block >= places.behind // BLOCK,
            block < places.told // BLOCK,
            position > func.max(block * BLOCK, places.behind),
            position <= (block + 1) * BLOCK,
            *conditions,
        )
    )
    if places.last is not None:
        query = query.where(block < -(-places.last // BLOCK), position <= places.last)
    return query.order_by(block, position).limit(limit)


def _in_tail(conditions: list[Any], places: Places, limit: int) -> Select[*tuple[Any, ...]]:
    """Find deliveries where no block tells of the log yet."""
    tail = Places(behind=max(places.behind, places.told), last=places.last)
    return (
        select(_EVENT["position"])
        .select_from(text("signal_ledger_events NOT INDEXED"))
        .where(*conditions, *_between(_EVENT["position"], tail))
        .order_by(_EVENT["position"])
        .limit(limit)
    )


def _between(position: Any, places: Places) -> list[Any]:  # noqa: ANN401 - a column, of a table or of none
    return [position > places.behind, *([] if places.last is None else [position <= places.last])]


def waits_page(
    *, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None
) -> Select[*tuple[Any, ...]]:
    """Read a page of who waits, the longest-waiting first."""
    query = _waiting("since" if channel is None else "channel").order_by(_WAIT["since"], _WAIT["job_id"]).limit(limit)
    return query.where(*_of_waits(channel, deadline_before, after))


def count_ending_waits(deadline_before: datetime) -> Select[int]:
    """Count the waits that end before an instant, up to one more than there may be to be few."""
    query = ending_waits(channel=None, deadline_before=deadline_before, after=None).limit(FEW_WAITS_MAX + 1)
    return select(func.count()).select_from(query.subquery())


def ending_waits(*, channel: str | None, deadline_before: datetime, after: str | None) -> Select[*tuple[Any, ...]]:
    """Read the few waits that end before an instant, in the order of their ends."""
    query = _waiting("deadline").order_by(_WAIT["deadline_at"])
    return query.where(text("deadline_at IS NOT NULL"), *_of_waits(channel, deadline_before, after))


def _waiting(index: str) -> Select[*tuple[Any, ...]]:
    return (
        select(*_WAIT.values())
        .select_from(text(f"signal_ledger_waits INDEXED BY signal_ledger_waits_{index}"))
        .where(text("(status = 'live' OR status = 'snoozed')"))  # as the partial indexes have it, to the letter
    )


def _of_waits(channel: str | None, deadline_before: datetime | None, after: str | None) -> list[Any]:
    conditions: list[Any] = []
    if channel is not None:
        conditions.append(_WAIT["current"] == channel)
    if deadline_before is not None:
        conditions.append(_WAIT["deadline_at"] < deadline_before)
    if after is not None:
        since, job_id = cursor_wait(after)
        conditions.append(tuple_(_WAIT["since"], _WAIT["job_id"]) > tuple_(literal(since, Instant), job_id))
    return conditions
