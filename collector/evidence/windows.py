"""Where the next page of violations lies: read from the sums and the hourly counts, before a record is looked at.

A page of what is frequent lies within hours, one of what is rare within the few days that have it: without knowing them, the index by
time would be walked through everything that does not match, and on PostgreSQL every partition be opened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.counts import Part, cut, full_hour, parts_of, summed_days
from isolation_monitor.collector.evidence.domain import ViolationQuery
from isolation_monitor.collector.storage.days import start_of
from isolation_monitor.collector.storage.models import ViolationCountRow
from isolation_monitor.collector.storage.rollup_models import ViolationDayRow

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_NEAR: Final = 6 * _HOUR
"""Most pages lie within so long of where they begin."""
_WALKED_AT_ONCE: Final = 50_000
"""Records that are walked through in about a tenth of a second: where a window holds no more, nothing is weighed."""
_COUNTED: Final = ("service", "kind", "grade", "synthetic", "detector", "arm", "fingerprint", "suppressed", "retracted")


@dataclass(frozen=True, slots=True)
class Window:
    """A time, and the days by which its records are kept, that hold all of a page, or all that there is."""

    since: datetime
    until: datetime
    kept_from: date
    kept_to: date
    records: int
    """How many it holds of what the query asks for; more where the range cuts its first or last hour."""


def is_counted(query: ViolationQuery) -> bool:
    """Say whether the counts know what the query asks for."""
    return query.instance is None and query.principal is None and query.run_id is None and query.request_id is None


def is_narrowed(query: ViolationQuery) -> bool:
    return any(getattr(query, name) is not None for name in _COUNTED)


async def window_of(connection: AsyncConnection, query: ViolationQuery) -> Window | None:
    """Return where the page that `query` asks for lies; None when there is nothing."""
    since, until = query.since, query.until
    if query.after is not None:
        # The hour of the row before is read anew; what lies behind it is not.
        if query.is_oldest_first:
            since = query.after[0] if since is None else max(since, query.after[0])
        else:
            beyond = _moved(query.after[0], timedelta(microseconds=1))
            until = beyond if until is None else min(until, beyond)
    found = _Found(query, since, until)
    near: tuple[datetime, datetime] | None = None
    rest: tuple[datetime | None, datetime | None] | None = None
    if query.is_oldest_first:
        if (begins := full_hour(since) if since else await _end_of_all(connection, func.min)) is not None:
            middle = _moved(begins, _NEAR) if until is None else min(_moved(begins, _NEAR), _full_hour_after(until))
            near, rest = (begins, middle), (middle, None if until is None else _full_hour_after(until))
    elif (ends := _full_hour_after(until) if until else await _end_of_all(connection, func.max)) is not None:
        ends = ends if until else ends + _HOUR
        middle = _moved(ends, -_NEAR) if since is None else max(_moved(ends, -_NEAR), full_hour(since))
        near, rest = (middle, ends), (None if since is None else full_hour(since), middle)
    if near is None or rest is None:
        return None
    await found.add(connection, [Part(ViolationCountRow, *near)])
    if not found.is_whole and (rest[0] is None or rest[1] is None or rest[0] < rest[1]):
        await found.add(connection, list(cut(*rest, await summed_days(connection, *rest))))
    return found.window()


async def is_walked_by_time(connection: AsyncConnection, query: ViolationQuery, window: Window) -> bool:
    """Return whether walking through a window by time reads less than reading all of the query's service and sorting it.

    SQLite takes the index that begins with the service wherever one is asked for, also where nearly everything is that service's.
    PostgreSQL weighs by itself, once it has statistics of the partition.
    """
    if query.service is None or query.fingerprint is not None:
        return False
    parts = await parts_of(connection, ViolationQuery(since=window.since, until=window.until))
    within = await _records(connection, parts, None)
    if within <= _WALKED_AT_ONCE:
        return True
    # A walk ends with the page; to sort, all must be read.
    walked = within * min(1.0, query.limit / max(1, window.records))
    return walked <= await _records(connection, await parts_of(connection, ViolationQuery()), query.service)


async def _records(connection: AsyncConnection, parts: list[Part], service: str | None) -> int:
    """Count the records of full hours and summed days, retracted ones among them."""
    found = 0
    for part in parts:
        _, *others = part.conditions(ViolationQuery(service))
        found += int((await connection.execute(select(func.coalesce(part.records, 0)).where(*others))).scalar_one())
    return found


async def _end_of_all(connection: AsyncConnection, function: Any) -> datetime | None:  # Any: SQL's min or max
    """Return the first or the last hour with violations: one look at an end of an index."""
    found: datetime | None = (await connection.execute(select(function(ViolationCountRow.hour)))).scalar_one()
    return found


def _full_hour_after(moment: datetime) -> datetime:
    return full_hour(_moved(moment, _HOUR - timedelta(microseconds=1)))


def _moved(moment: datetime, by: timedelta) -> datetime:
    """Return a moment later or earlier; the same where the calendar ends: records and cursors may say any time."""
    try:
        return moment + by
    except OverflowError:
        return moment


class _Found:
    """Pieces in the order of the pages, until they hold enough."""

    def __init__(self, query: ViolationQuery, since: datetime | None, until: datetime | None) -> None:
        self._query = query
        self._since, self._until = since, until
        self._pieces: list[Window] = []
        self._records = 0

    @property
    def is_whole(self) -> bool:
        return self._records >= self._query.limit

    async def add(self, connection: AsyncConnection, parts: list[Part]) -> None:
        pieces = [piece for part in parts for piece in await self._read(connection, part)]
        for piece in sorted(pieces, key=lambda one: one.since, reverse=not self._query.is_oldest_first):
            if self.is_whole:
                return
            self._pieces.append(piece)
            # Of a piece that the range cuts nobody knows how much lies within.
            is_cut = (self._since is not None and piece.since < self._since) or (self._until is not None and piece.until > self._until)
            # Of the one with the row before, that row is on no page to come, nor are those beside it.
            is_cut = is_cut or (self._query.after is not None and piece.since <= self._query.after[0] < piece.until)
            self._records += 0 if is_cut else piece.records

    def window(self) -> Window | None:
        if not self._pieces:
            return None
        return Window(
            min(one.since for one in self._pieces), max(one.until for one in self._pieces),
            min(one.kept_from for one in self._pieces), max(one.kept_to for one in self._pieces),
            sum(one.records for one in self._pieces),
        )  # fmt: skip

    async def _read(self, connection: AsyncConnection, part: Part) -> list[Window]:
        row: Any = part.row  # Any: one of two tables
        is_day = row is ViolationDayRow
        start = row.day if is_day else row.hour
        kept = (func.min(row.kept_from), func.max(row.kept_to)) if is_day else (func.min(row.day), func.max(row.day))
        statement = select(start, *kept, func.sum(row.records)).where(*self._conditions(part)).group_by(start)
        found = []
        for moment, kept_from, kept_to, records in await connection.execute(statement):
            begins, ends = (start_of(moment), start_of(moment) + _DAY) if is_day else (moment, moment + _HOUR)
            found.append(Window(begins, ends, kept_from, kept_to, int(records)))
        return found

    def _conditions(self, part: Part) -> list[ColumnElement[bool]]:
        # Retracted violations are in lists, too, unless they are not asked for.
        asked = self._query.retracted
        _, *others = part.conditions(replace(self._query, since=None, until=None))
        return others if asked is None else [part.row.retracted.is_(asked), *others]
