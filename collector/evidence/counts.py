"""Questions over long times, answered from the hourly counts that the database keeps beside the records.

A range that does not begin and end with an hour is counted from the records at its edges, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, String, case, func, literal_column, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.domain import GRADE_ORDER, Count, HistoryQuery, ViolationQuery
from isolation_monitor.collector.storage.models import ViolationCountRow, ViolationRow

_HOUR: Final = timedelta(hours=1)
_GRADES: Final = {order: grade for grade, order in GRADE_ORDER.items()}


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


async def totals_by_defect(connection: AsyncConnection, query: ViolationQuery) -> list[Total]:
    """Return at most `query.limit` defects, the one with the newest violation first; retracted ones are left out."""
    found: dict[tuple[str, str], Total] = {}
    for row, part in parts_of(query):
        newest = func.max(row.last if row is ViolationCountRow else row.time)
        statement = (
            select(
                row.service, row.fingerprint, func.max(case(GRADE_ORDER, value=row.grade, else_=0)),
                func.min(row.first if row is ViolationCountRow else row.time), newest,
                func.sum(row.violations if row is ViolationCountRow else row.count),
                func.sum(row.records) if row is ViolationCountRow else func.count(),
            )
            .group_by(row.service, row.fingerprint)
            .order_by(newest.desc(), row.fingerprint)
        )  # fmt: skip
        if part.since == query.since and part.until == query.until:
            statement = statement.limit(query.limit)
        for service, fingerprint, order, first, last, violations, records in await connection.execute(narrowed(statement, row, part)):
            total = Total(service, fingerprint, order, first, last, int(violations), int(records))
            if (known := found.setdefault((service, fingerprint), total)) is not total:
                known.add(total)
    newest_first = sorted(found.values(), key=lambda total: total.fingerprint)
    return sorted(newest_first, key=lambda total: total.last, reverse=True)[: query.limit]


async def history(connection: AsyncConnection, query: HistoryQuery) -> list[Count]:
    """Return the violations by hour or day, oldest first; retracted ones are left out. What had none is not there."""
    row = ViolationCountRow
    of = None if query.by is None else getattr(row, query.by)
    start = _day(connection) if query.is_daily else row.hour
    columns = [start] if of is None else [start, of]
    statement = select(*columns, func.sum(row.records), func.sum(row.violations)).where(
        row.hour >= query.since, row.hour < query.until, row.retracted.is_(False)
    )
    for name in ("service", "kind", "grade", "detector", "arm", "synthetic", "suppressed"):
        if (value := getattr(query, name)) is not None:
            statement = statement.where(getattr(row, name) == value)
    found: list[Count] = []
    for moment, *value, records, violations in await connection.execute(statement.group_by(*columns)):
        found.append(Count(moment.astimezone(UTC), value[0] if value else "", int(records), int(violations)))
    return sorted(found, key=lambda one: (one.start, one.of))


def _day(connection: AsyncConnection) -> ColumnElement[datetime]:
    """Return the UTC day of a count as a moment; thirty rows leave the database instead of seven hundred."""
    hour = ViolationCountRow.hour
    if connection.dialect.name == "postgresql":
        return func.date_trunc(literal_column("'day'"), hour, literal_column("'UTC'"), type_=hour.type)
    return type_coerce(func.strftime("%Y-%m-%d 00:00:00.000000", hour, type_=String()), hour.type)


def parts_of(query: ViolationQuery) -> Iterator[tuple[Any, ViolationQuery]]:  # Any: either table
    """Cut a range into full hours, counted already, and its edges, which are not."""
    begins = None if query.since is None else full_hour(query.since + _HOUR - timedelta(microseconds=1))
    ends = None if query.until is None else full_hour(query.until)
    if begins is not None and ends is not None and begins >= ends:
        yield ViolationRow, query
        return
    if begins is not None and begins != query.since:
        yield ViolationRow, replace(query, until=begins)
    yield ViolationCountRow, replace(query, since=begins, until=ends)
    if ends is not None and ends != query.until:
        yield ViolationRow, replace(query, since=ends)


def full_hour(moment: datetime) -> datetime:
    """Return the beginning of the hour of `moment`, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def narrowed(statement: Any, row: Any, query: ViolationQuery) -> Any:  # Any: a select of any columns of either table
    """Return `statement` with the conditions of `query` on the columns of `row`; retracted violations are left out."""
    is_counts = row is ViolationCountRow
    statement = statement.where(row.retracted.is_(False) if is_counts else row.retracted_at.is_(None))
    for name in ("service", "kind", "grade", "synthetic", "detector", "arm", "fingerprint", "suppressed"):
        if (value := getattr(query, name)) is not None:
            statement = statement.where(getattr(row, name) == value)
    time = row.hour if is_counts else row.time
    if query.since is not None:
        statement = statement.where(time >= query.since)
    if query.until is not None:
        statement = statement.where(time < query.until)
    return statement
