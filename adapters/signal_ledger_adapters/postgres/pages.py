"""Pages of the log and of who waits, as queries: each looks at little more than it finds.

The planner goes by statistics, which are old when they matter most, and a page of rare events is lost if it walks the
log in its order to find them. So all columns of an index are compared as a row, and the page is ordered by all of them:
no other index has that order, and it makes no difference, since the first of them are the same in every row.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_never

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    Text,
    collate,
    column,
    func,
    literal,
    or_,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.sql import quoted_name
from sqlalchemy.sql.functions import Function

from signal_ledger.cursors import cursor_wait
from signal_ledger.events import Kind
from signal_ledger.names import DEFAULT_CHANNEL
from signal_ledger.ports import EventFilter
from signal_ledger_adapters.postgres.cursors import from_cursor
from signal_ledger_adapters.postgres.tables import blocks, event_columns, events, waits
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

type Page = Select[*tuple[Any, ...]]

_PLACE = (events.c.turn, events.c.position)
_KIND: ColumnElement[str] = collate(events.c.kind, "C")
_FIRST_JOB = -(2**63)
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where in the log a page can be.

    Args:
        behind: Behind this turn and position.
        last: Up to this one; None for the end of the log.
    """

    behind: tuple[int, int]
    last: tuple[int, int] | None = None


class Pages:
    """Queries for pages of a ledger.

    Args:
        schema: The real one.
        horizon: Asks up to which turn the log is settled.
    """

    def __init__(self, schema: str, horizon: ColumnElement[int]) -> None:
        self._schema = schema
        self._horizon = horizon

    def stream(self, wanted: EventFilter, limit: int) -> Page:
        """Read a page of a job's stream, by its versions."""
        query = select(*event_columns).where(
            events.c.job_id == wanted.job_id, events.c.turn < self._horizon, *of_any(dict(events.c), wanted)
        )
        query = query.order_by(events.c.version).limit(limit)
        if wanted.after is None:
            return query
        place = _place(from_cursor(wanted.after))
        # The cursor is most likely one of this stream, whose key then leads behind it.
        version = select(events.c.version).where(
            events.c.turn == place[0], events.c.position == place[1], events.c.job_id == wanted.job_id
        )
        return query.where(
            tuple_(*_PLACE) > tuple_(*place), events.c.version > func.coalesce(version.scalar_subquery(), 0)
        )

    def log(self, wanted: EventFilter, places: Places, limit: int) -> Page:
        """Read a page of the log itself."""
        query = select(*event_columns).where(*left_over(dict(events.c), None, wanted))
        return query.where(*self._between((), (), places)).order_by(*_PLACE).limit(limit)

    def branches(self, parts: list[Branch], wanted: EventFilter, places: Places, limit: int) -> Page:
        """Read a page that comes from several parts of the log."""
        queries = [self._branch(part, wanted, places, limit) for part in parts]
        if len(queries) == 1:
            return queries[0]
        found = union_all(*[select(query.subquery()) for query in queries]).subquery()
        return select(found).order_by(found.c.turn, found.c.position).limit(limit)

    def _branch(self, part: Branch, wanted: EventFilter, places: Places, limit: int) -> Page:
        keys: tuple[ColumnElement[Any], ...]
        values: tuple[str, ...]
        match part:
            case OfKind(kind=kind):
                keys, values, own = (_KIND,), (kind.value,), "kind <> 'delivered'"
            case OnChannel(channel=channel, kind=kind):
                keys, values = (events.c.channel, _KIND), (channel, kind.value)
                own = "channel IS NOT NULL AND (channel <> '' OR kind <> 'delivered')"
            case FromSource(source=source):
                keys, values, own = (events.c.source,), (source,), "source IS NOT NULL"
            case Deliveries(unnamed=unnamed):
                return self._deliveries(wanted, places, limit, unnamed=unnamed)
            case _:
                assert_never(part)
        return (
            select(*event_columns)
            .where(text(own), *self._between(keys, values, places), *left_over(dict(events.c), part, wanted))
            .order_by(*keys, *_PLACE)
            .limit(limit)
        )

    def _deliveries(self, wanted: EventFilter, places: Places, limit: int, *, unnamed: bool) -> Page:
        times = [literal(instant, DateTime(timezone=True)) for instant in (wanted.since, wanted.until)]
        found = Function(
            "deliveries",
            literal(unnamed),
            *_place(places.behind),
            *_place(places.last or (None, None)),
            *times,
            limit,
            packagenames=(quoted_name(self._schema, quote=True),),
        ).table_valued(*[column(one.name, one.type) for one in event_columns], name="delivery")
        return select(*[found.c[one.name] for one in event_columns]).order_by(found.c.turn, found.c.position)

    def _between(self, keys: tuple[Any, ...], values: tuple[str, ...], places: Places) -> list[ColumnElement[bool]]:
        """Compare the columns of an index as rows, from where the page can begin to where the log is settled."""
        given = [literal(value, Text) for value in values]
        row = tuple_(*keys, *_PLACE)
        conditions = [row > tuple_(*given, *_place(places.behind)), row < tuple_(*given, self._horizon, 0)]
        if places.last is not None:
            conditions.append(row <= tuple_(*given, *_place(places.last)))
        return conditions


def _place(place: tuple[int, int] | tuple[None, None]) -> list[ColumnElement[Any]]:
    return [literal(one, BigInteger) for one in place]


def waits_page(*, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None) -> Page:
    """Read a page of who waits, the longest-waiting first."""
    order = (waits.c.since, waits.c.job_id) if channel is None else (waits.c.current, waits.c.since, waits.c.job_id)
    query = _waiting().order_by(*order).limit(limit)
    since, job_id = (_LONG_AGO, _FIRST_JOB) if after is None else cursor_wait(after)
    if channel is None:
        query = query.where(tuple_(*order) > tuple_(since, job_id))
    else:
        query = query.where(tuple_(*order) > tuple_(channel, since, job_id), waits.c.current <= channel)
    return query if deadline_before is None else query.where(waits.c.deadline_at < deadline_before)


def count_ending_waits(deadline_before: datetime) -> Select[int]:
    """Count the waits that end before an instant, up to one more than there may be to be few."""
    return select(func.count()).select_from(_ending(deadline_before).limit(FEW_WAITS_MAX + 1).subquery())


def ending_waits(*, channel: str | None, deadline_before: datetime, after: str | None) -> Page:
    """Read the few waits that end before an instant, in the order of their ends."""
    query = _ending(deadline_before)
    if channel is not None:
        query = query.where(waits.c.current == channel)
    if after is not None:
        query = query.where(tuple_(waits.c.since, waits.c.job_id) > tuple_(*cursor_wait(after)))
    return query


def _ending(deadline_before: datetime) -> Page:
    ends_before = waits.c.deadline_at.is_not(None), waits.c.deadline_at < deadline_before
    return _waiting().where(*ends_before).order_by(waits.c.deadline_at)


def _waiting() -> Page:
    return select(waits).where(waits.c.since.is_not(None), waits.c.status.in_(["live", "snoozed"]))


def wrong_blocks() -> Page:
    """Compare each block with the log: its place, and whether it says otherwise."""
    order = (blocks.c.turn, blocks.c.position)
    so_far: dict[str, Any] = {"order_by": order, "rows": (None, 0)}
    stored = select(
        blocks,
        func.lag(blocks.c.turn, 1, 0).over(order_by=order).label("before_turn"),
        func.lag(blocks.c.position, 1, 0).over(order_by=order).label("before_position"),
        func.max(blocks.c.high).over(**so_far).label("highest"),
        func.max(blocks.c.low).over(**so_far).label("highest_low"),
    ).subquery()
    is_delivered = events.c.kind == Kind.DELIVERED
    told = (
        select(
            func.min(events.c.recorded_at).label("low"),
            func.max(events.c.recorded_at).label("high"),
            func.count().filter(is_delivered).label("delivered"),
            func.count().filter(is_delivered, events.c.channel == DEFAULT_CHANNEL).label("unnamed"),
        )
        .where(
            tuple_(*_PLACE) > tuple_(stored.c.before_turn, stored.c.before_position),
            tuple_(*_PLACE) <= tuple_(stored.c.turn, stored.c.position),
        )
        .lateral()
    )
    of_stored = [stored.c[name] for name in ("low", "high", "delivered", "unnamed", "peak", "crest")]
    of_log = [told.c.low, told.c.high, told.c.delivered, told.c.unnamed, stored.c.highest, stored.c.highest_low]
    is_wrong = or_(*[one.is_distinct_from(other) for one, other in zip(of_stored, of_log, strict=True)])
    query = select(stored.c.turn, stored.c.position, is_wrong).join_from(stored, told, true())
    return query.order_by(stored.c.turn, stored.c.position)
