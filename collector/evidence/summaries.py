"""What the pages read of evidence beside single violations: sums by service and by day.

They count what gates count: planted faults, retracted violations and those that are accepted for now are left out. Read from the
sums of days and the hourly counts, so that 30 days cost what a day costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.counts import history, parts_of
from isolation_monitor.collector.evidence.domain import HistoryQuery, ViolationQuery

SERVICES_LIMIT: Final = 200
_ALWAYS: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class ServiceSum:
    """The violations of one service since a moment, by grade, and when the last one that crosses users happened."""

    service: str
    by_grade: dict[str, int] = field(default_factory=dict)
    last_crossing: datetime | None = None

    @property
    def crossing(self) -> int:
        """Return how many lower the score."""
        return self.by_grade.get("crossed", 0) + self.by_grade.get("reachable", 0)


@dataclass(frozen=True, slots=True)
class DaySum:
    """The violations of one day in UTC, of all services or of one."""

    day: date
    grade: str
    number: int


class EvidenceSummaries:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def by_service(self, since: datetime) -> list[ServiceSum]:
        """Return the sums of every service with a violation since then, by name; at most 200 services."""
        found: dict[str, ServiceSum] = {}
        asked = ViolationQuery(since=since, synthetic=False, suppressed=False)
        for part in await parts_of(self._connection, asked):
            row = part.row
            statement = (
                select(row.service, row.grade, part.violations, part.last)
                .where(*part.conditions(asked))
                .group_by(row.service, row.grade)
                .order_by(row.service, row.grade)
                .limit(SERVICES_LIMIT * 3)
            )
            for service, grade, violations, last in await self._connection.execute(statement):
                one = found.setdefault(service, ServiceSum(service))
                one.by_grade[grade] = one.by_grade.get(grade, 0) + int(violations)
                if grade in ("crossed", "reachable"):
                    one.last_crossing = last if one.last_crossing is None else max(last, one.last_crossing)
        return [found[service] for service in sorted(found)[:SERVICES_LIMIT]]

    async def by_day(self, since: datetime, service: str | None = None) -> list[DaySum]:
        """Return the sums of each day in UTC, oldest first. `since` is a full hour."""
        asked = HistoryQuery(since, _ALWAYS, "grade", is_daily=True, service=service, synthetic=False, suppressed=False)
        return [DaySum(one.start.date(), one.of, one.violations) for one in await history(self._connection, asked)]
