"""Questions over long times, answered from the sums of full days and the hourly counts that are kept beside the records.

A range is cut into parts: days that were summed up, full hours, and the edges that begin or end within an hour, which are counted
from the records, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, String, and_, case, func, literal_column, or_, select, true, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.domain import GRADE_ORDER, Count, HistoryQuery, ViolationQuery
from isolation_monitor.collector.storage.days import start_of
from isolation_monitor.collector.storage.models import ViolationCountRow, ViolationRow
from isolation_monitor.collector.storage.rollup_models import DAY, RollupRow, ViolationDayRow

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_GRADES: Final = {order: grade for grade, order in GRADE_ORDER.items()}
_NARROWS: Final = ("service", "kind", "grade", "synthetic", "detector", "arm", "fingerprint", "suppressed")


@dataclass(slots=True)
class Total:
    """All of one defect: one fingerprint in one service."""

    service: str
    fingerprint: str
    order: int
    first: datetime
    last: datetime
    violations: int
    records: int

    @property
    def grade(self) -> str:
        """Return the gravest grade of its violations."""
        return _GRADES[self.order]

    def add(self, other: Total) -> None:
        self.order = max(self.order, other.order)
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.violations += other.violations
        self.records += other.records


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a range and the table that answers for it: `days` that were summed up, or from `since` to `until`."""

    row: Any  # Any: one of three tables with the same columns to narrow by
    since: datetime | None = None
    until: datetime | None = None
    days: tuple[date, ...] = ()

    @property
    def records(self) -> ColumnElement[int]:
        return func.count() if self.row is ViolationRow else func.sum(self.row.records)

    @property
    def violations(self) -> ColumnElement[int]:
        return func.sum(self.row.count if self.row is ViolationRow else self.row.violations)

    @property
    def first(self) -> ColumnElement[datetime]:
        return func.min(self.row.time if self.row is ViolationRow else self.row.first)

    @property
    def last(self) -> ColumnElement[datetime]:
        return func.max(self.row.time if self.row is ViolationRow else self.row.last)

    def conditions(self, query: ViolationQuery | HistoryQuery) -> list[ColumnElement[bool]]:
        """Return what a row must be to be asked for; retracted violations are left out."""
        row = self.row
        found = [row.retracted_at.is_(None) if row is ViolationRow else row.retracted.is_(False)]
        for name in _NARROWS:
            if (value := getattr(query, name, None)) is not None:
                found.append(getattr(row, name) == value)
        if row is ViolationDayRow:
            return [*found, row.day.in_(self.days)]
        return [*found, self.between(row.time if row is ViolationRow else row.hour)]

    def between(self, time: Any) -> ColumnElement[bool]:  # Any: a column of times
        """Return the condition that a time lies within this part."""
        ends = [*([] if self.since is None else [time >= self.since]), *([] if self.until is None else [time < self.until])]
        return and_(true(), *ends)


async def summed_days(connection: AsyncConnection, since: datetime | None, until: datetime | None) -> list[date]:
    """Return the days between these moments whose sums hold, oldest first."""
    row = RollupRow
    statement = select(row.start).where(row.kind == DAY, row.is_done.is_(True)).order_by(row.start)
    if since is not None:
        statement = statement.where(row.start >= since)
    if until is not None:
        statement = statement.where(row.start < until)
    # No calendar has a day before its first one: what is added to is a day that is over.
    return [start.date() for start in (await connection.execute(statement)).scalars() if until is None or start + _DAY <= until]


async def parts_of(connection: AsyncConnection, query: ViolationQuery) -> list[Part]:
    """Cut the range of a query into parts that hold now."""
    return list(cut(query.since, query.until, await summed_days(connection, query.since, query.until)))


def cut(since: datetime | None, until: datetime | None, days: Collection[date]) -> Iterator[Part]:
    """Cut a range into days, of those that are summed up, full hours and edges; None is open."""
    begins = None if since is None else full_hour(since + (_HOUR - timedelta(microseconds=1)))
    ends = None if until is None else full_hour(until)
    if begins is not None and ends is not None and begins >= ends:
        yield Part(ViolationRow, since, until)
        return
    if begins is not None and begins != since:
        yield Part(ViolationRow, since, begins)
    within = sorted(day for day in days if (begins is None or start_of(day) >= begins) and (ends is None or start_of(day) + _DAY <= ends))
    if within:
        yield Part(ViolationDayRow, days=tuple(within))
    for first, last in _gaps(begins, ends, within):
        yield Part(ViolationCountRow, first, last)
    if ends is not None and ends != until:
        yield Part(ViolationRow, ends, until)


def _gaps(begins: datetime | None, ends: datetime | None, days: Iterable[date]) -> Iterator[tuple[datetime | None, datetime | None]]:
    """Give the times between `days`, which are in order."""
    at = begins
    for day in days:
        start = start_of(day)
        if at is None or at < start:
            yield at, start
        at = start + _DAY
    if at is None or ends is None or at < ends:
        yield at, ends


async def kept_by(connection: AsyncConnection, parts: Collection[Part]) -> list[date]:
    """Return the days by which the records of these parts are kept: the partitions that have to be opened."""
    row = ViolationCountRow
    hours = [replace(part, since=None if part.since is None else full_hour(part.since)) for part in parts]
    statement = select(row.day).where(or_(*(part.between(row.hour) for part in hours))).distinct()
    return list((await connection.execute(statement)).scalars())


async def totals_by_defect(connection: AsyncConnection, query: ViolationQuery, parts: Collection[Part]) -> list[Total]:
    """Return at most `query.limit` defects, the one with the newest violation first; retracted ones are left out."""
    found: dict[tuple[str, str], Total] = {}
    for part in parts:
        row = part.row
        order = func.max(case(GRADE_ORDER, value=row.grade, else_=0))
        statement = (
            select(row.service, row.fingerprint, order, part.first, part.last, part.violations, part.records)
            .where(*part.conditions(query))
            .group_by(row.service, row.fingerprint)
            .order_by(part.last.desc(), row.fingerprint)
        )
        if len(parts) == 1:
            statement = statement.limit(query.limit)
        for service, fingerprint, order_, first, last, violations, records in await connection.execute(statement):
            total = Total(service, fingerprint, order_, first, last, int(violations), int(records))
            if (known := found.setdefault((service, fingerprint), total)) is not total:
                known.add(total)
    newest_first = sorted(found.values(), key=lambda total: total.fingerprint)
    return sorted(newest_first, key=lambda total: total.last, reverse=True)[: query.limit]


async def history(connection: AsyncConnection, query: HistoryQuery) -> list[Count]:
    """Return the violations by hour or day, oldest first; retracted ones are left out."""
    days = await summed_days(connection, query.since, query.until) if query.is_daily else []
    # A day may be told by its sums, or by its hours: never by both.
    found: list[Count] = []
    for part in cut(query.since, query.until, days):
        row = part.row
        start = row.day if row is ViolationDayRow else _day(connection) if query.is_daily else row.hour
        columns = [start] if query.by is None else [start, getattr(row, query.by)]
        statement = select(*columns, part.records, part.violations).where(*part.conditions(query)).group_by(*columns)
        for moment, *value, records, violations in await connection.execute(statement):
            at = moment.astimezone(UTC) if isinstance(moment, datetime) else start_of(moment)
            found.append(Count(at, value[0] if value else "", int(records), int(violations)))
    return sorted(found, key=lambda one: (one.start, one.of))


def _day(connection: AsyncConnection) -> ColumnElement[datetime]:
    """Return the UTC day of a count as a moment; thirty rows leave the database instead of seven hundred."""
    hour = ViolationCountRow.hour
    if connection.dialect.name == "postgresql":
        return func.date_trunc(literal_column("'day'"), hour, literal_column("'UTC'"), type_=hour.type)
    return type_coerce(func.strftime("%Y-%m-%d 00:00:00.000000", hour, type_=String()), hour.type)


def full_hour(moment: datetime) -> datetime:
    """Return the beginning of the hour of `moment`, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
