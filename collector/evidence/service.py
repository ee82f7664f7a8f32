"""Evidence, told in domain words: find violations and runs, and count them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.evidence.counts import full_hour, history
from isolation_monitor.collector.evidence.domain import (
    Amendment,
    Count,
    Group,
    HistoryQuery,
    Run,
    RunQuery,
    Violation,
    ViolationQuery,
)
from isolation_monitor.collector.evidence.repository import EvidenceRepository
from isolation_monitor.collector.evidence.summaries import DaySum, EvidenceSummaries, ServiceSum
from isolation_monitor.collector.problems import Invalid, NotFound
from isolation_monitor.collector.storage.database import Database

MAX_STEPS: Final = 1_000
"""Hours or days in one answer: 30 days by the hour, and some."""


def _floor(moment: datetime, is_daily: bool) -> datetime:
    hour = full_hour(moment)
    return hour.replace(hour=0) if is_daily else hour


class EvidenceService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, query: ViolationQuery) -> list[Violation]:
        async with self._database.reading() as connection:
            return await EvidenceRepository(connection).violations(query)

    async def groups(self, query: ViolationQuery) -> list[Group]:
        async with self._database.reading() as connection:
            return await EvidenceRepository(connection).groups(query)

    async def runs(self, query: RunQuery) -> list[Run]:
        async with self._database.reading() as connection:
            return await EvidenceRepository(connection).runs(query)

    async def run(self, record_id: str, services: Collection[str] | None = None) -> Run:
        """Return the run with this record id; only of `services`, where they are given.

        Raises:
            NotFound: there is none with this id.
        """
        async with self._database.reading() as connection:
            found = await EvidenceRepository(connection).run(record_id)
        if found is None or (services is not None and found.service not in services):
            raise NotFound("there is no run with this record id: GET /v1/runs?run_id=... finds the records of a run")
        return found

    async def history(
        self,
        since: datetime | None,
        until: datetime | None,
        by: str | None = None,
        is_daily: bool = True,
        service: str | None = None,
        kind: str | None = None,
        grade: str | None = None,
        detector: str | None = None,
        arm: str | None = None,
        synthetic: bool | None = None,
        suppressed: bool | None = None,
    ) -> tuple[list[Count], HistoryQuery]:
        """Count violations by day or hour, and say of which range: the last 30 days without one, from full step to full step.

        Raises:
            Invalid: the range ends before it begins, or has more steps than are answered at once.
        """
        step = timedelta(days=1) if is_daily else timedelta(hours=1)
        until = self._clock() if until is None else until
        since = until - timedelta(days=30) if since is None else since
        if since >= until:
            raise Invalid("since is not before until: nothing lies between them")
        begins = _floor(since, is_daily)
        ends = _floor(until, is_daily)
        ends = ends if ends == until else ends + step
        if (ends - begins) / step > MAX_STEPS:
            raise Invalid(f"the range has more than {MAX_STEPS} {'days' if is_daily else 'hours'}: ask for less, or by day")
        query = HistoryQuery(begins, ends, by, is_daily, service, kind, grade, detector, arm, synthetic, suppressed)
        async with self._database.reading() as connection:
            return await history(connection, query), query

    async def violation(self, violation_id: str, services: Collection[str] | None = None) -> tuple[Violation, list[Amendment]]:
        """Return a violation with its escalations and retractions; only of `services`, where they are given.

        Raises:
            NotFound: there is none with this id.
        """
        async with self._database.reading() as connection:
            repository = EvidenceRepository(connection)
            found = await repository.violation(violation_id)
            if found is None or (services is not None and found.service not in services):
                raise NotFound("there is no violation with this id; one that was just found may still be on its way")
            return found, await repository.amendments(violation_id, found.service)

    async def sums(self, since: datetime) -> list[ServiceSum]:
        """Return the violations of each service since then."""
        async with self._database.reading() as connection:
            return await EvidenceSummaries(connection).by_service(since)

    async def days(self, since: datetime, service: str | None) -> list[DaySum]:
        """Return the violations of each day since then."""
        async with self._database.reading() as connection:
            return await EvidenceSummaries(connection).by_day(since, service)
