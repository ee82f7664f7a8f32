"""Incidents, told in domain words: list them, tell one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from isolation_monitor.collector.affected import Affected
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.incidents.domain import Defect, Incident, Step, incidents, parse_id, story
from isolation_monitor.collector.incidents.repository import IncidentRepository
from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.storage.database import Database


@dataclass(frozen=True, slots=True)
class Told:
    """One incident with its story."""

    incident: Incident
    defects: list[Defect]
    steps: list[Step]
    affected: Affected


class IncidentService:
    def __init__(self, database: Database, clock: Clock, keep_days: int) -> None:
        self._database = database
        self._clock = clock
        self._keep = timedelta(days=keep_days)

    async def find(
        self, since: datetime | None = None, service: str | None = None, *, is_open: bool | None = None, limit: int = 50
    ) -> list[Incident]:
        """Return at most `limit` incidents with a sign of life since then, the one that began last first."""
        now = self._clock()
        since = max(since, now - self._keep) if since is not None else now - self._keep
        async with self._database.reading() as connection:
            repository = IncidentRepository(connection)
            # What began before `since` and went on belongs whole.
            found = await _all(repository, now - self._keep, now, service)
        chosen = (one for one in found if one.last_sign_at >= since and is_open in (None, one.ended_at is None))
        return list(islice(chosen, limit))

    async def tell(self, incident_id: str, services: Collection[str] | None = None) -> Told:
        """Return the incident that holds the moment in this id; only of `services`, where they are given.

        Raises:
            NotFound: no such id, or nothing was wrong at that moment (any more: retracted, forgotten or expired).
        """
        named = parse_id(incident_id)
        if named is not None and (services is None or named[0] in services):
            service, moment = named
            now = self._clock()
            async with self._database.reading() as connection:
                repository = IncidentRepository(connection)
                for incident in await _all(repository, now - self._keep, now, service):
                    if incident.holds(moment):
                        start, end = incident.started_at, incident.last_sign_at
                        defects = await repository.defects(service, start, end)
                        return Told(incident, defects, story(incident, defects), await repository.affected(service, start, end))
        raise NotFound("there is no incident with this id: GET /v1/incidents lists them")


async def _all(repository: IncidentRepository, since: datetime, now: datetime, service: str | None) -> list[Incident]:
    alerts = await repository.alerts(since, now, service)
    bursts = await repository.bursts(since, now + timedelta(days=1), service)
    return incidents(alerts, bursts, await repository.changes(since, service), now)
