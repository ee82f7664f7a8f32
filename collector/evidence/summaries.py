"""What the pages read of evidence beside single violations: sums by service and by day.

Planted faults and retracted violations are left out. Sums by service count what gates count, so those that are accepted for now are
left out, too. Sums by day are read from hourly counts, which do not tell these apart: they are in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.counts import history
from isolation_monitor.collector.evidence.domain import HistoryQuery
from isolation_monitor.collector.storage.models import ViolationRow, counting

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
        row = ViolationRow
        statement = (
            select(row.service, row.grade, func.sum(row.count), func.max(row.time))
            .where(row.time >= since, *counting())
            .group_by(row.service, row.grade)
            .order_by(row.service, row.grade)
            .limit(SERVICES_LIMIT * 3)
        )
        found: dict[str, ServiceSum] = {}
        for service, grade, number, last in await self._connection.execute(statement):
            one = found.setdefault(service, ServiceSum(service))
            one.by_grade[grade] = int(number)
            if grade in ("crossed", "reachable"):
                one.last_crossing = last if one.last_crossing is None else max(last, one.last_crossing)
        return list(found.values())

    async def by_day(self, since: datetime, service: str | None = None) -> list[DaySum]:
        """Return the sums of each day in UTC, oldest first. `since` is a full hour."""
        asked = HistoryQuery(since, _ALWAYS, "grade", is_daily=True, service=service, synthetic=False)
        return [DaySum(one.start.date(), one.of, one.violations) for one in await history(self._connection, asked)]
