"""Every query of incidents: alerts put together from their deliveries, hours with violations, changes of rollouts, whom it touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.affected import READ_FOR_AFFECTED, Affected
from isolation_monitor.collector.incidents.domain import SILENT_AFTER, AlertSpan, Burst, Change, Defect
from isolation_monitor.collector.storage.models import (
    NotificationRow,
    RolloutEventRow,
    ViolationCountRow,
    ViolationRow,
    counted,
    counting,
)

_LIMIT: Final = 20_000
_HOUR: Final = timedelta(hours=1)


class IncidentRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def alerts(self, since: datetime, now: datetime, service: str | None) -> list[AlertSpan]:
        """Return the alerts of services that were told of since then; no planted ones.

        One alert is told of in several groups and states: it is known by its fingerprint and its start.
        """
        row = NotificationRow
        columns = (
            row.status,
            row.alertname,
            row.fingerprint,
            row.labels,
            row.annotations,
            row.starts_at,
            row.ends_at,
            row.last_received_at,
        )
        of_service = row.labels["service"].as_string()
        statement = select(*columns).where(row.last_received_at >= since)
        statement = statement.where(of_service.is_not(None) if service is None else of_service == service)
        told: dict[tuple[str, datetime], dict[str, Any]] = {}
        for found in await self._connection.execute(statement.order_by(row.last_received_at.desc()).limit(_LIMIT)):
            if found.labels.get("synthetic") != "true" and "drill" not in found.labels:
                # The newest of each state is met first.
                told.setdefault((found.fingerprint, found.starts_at), {}).setdefault(found.status, found)
        return [_span(states, now) for states in told.values()]

    async def bursts(self, since: datetime, until: datetime, service: str | None) -> list[Burst]:
        """Return the hours that had violations which lower the score, with the first and the last of them."""
        row = ViolationCountRow
        statement = (
            select(row.service, func.min(row.first), func.max(row.last), func.sum(row.violations))
            .where(row.hour > since - _HOUR, row.hour < until, row.grade.in_(("crossed", "reachable")), *counted())
            .group_by(row.service, row.hour)
        )
        if service is not None:
            statement = statement.where(row.service == service)
        return [Burst(name, first, last, int(number)) for name, first, last, number in await self._connection.execute(statement)]

    async def changes(self, since: datetime, service: str | None) -> list[Change]:
        row = RolloutEventRow
        statement = select(row.__table__).where(row.at >= since).order_by(row.sequence.desc()).limit(_LIMIT)
        if service is not None:
            statement = statement.where(row.service == service)
        return [
            Change(
                one.rollout, one.service, one.at, one.action, one.to_status, one.from_stage, one.to_stage, one.actor, one.reason,
                one.decision_id,
            )
            for one in await self._connection.execute(statement)
        ]  # fmt: skip

    async def defects(self, service: str, start: datetime, end: datetime) -> list[Defect]:
        """Return the defects of this time, the first one first."""
        row = ViolationCountRow
        first, first_hour = func.min(row.first), start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        statement = (
            select(row.kind, row.grade, row.fingerprint, first, func.max(row.last), func.sum(row.violations), func.sum(row.records))
            .where(row.service == service, row.hour >= first_hour, row.hour <= end, row.last >= start, row.first <= end)
            .where(*counted())
            .group_by(row.kind, row.grade, row.fingerprint)
            .order_by(first)
            .limit(200)
        )
        return [
            Defect(kind, grade, fingerprint, max(begins, start), min(ends, end), int(violations), int(records))
            for kind, grade, fingerprint, begins, ends, violations, records in await self._connection.execute(statement)
        ]

    async def affected(self, service: str, start: datetime, end: datetime) -> Affected:
        row, affected, read = ViolationRow, Affected(), 0
        statement = select(row.victim, row.offender, row.extra).where(
            row.service == service, row.time >= start, row.time <= end, *counting()
        )
        for victim, offender, extra in await self._connection.execute(statement.order_by(row.time.desc()).limit(READ_FOR_AFFECTED)):
            read += 1
            affected.add(victim, offender, extra)
        affected.is_lower_bound = affected.is_lower_bound or read >= READ_FOR_AFFECTED
        return affected


def _span(states: dict[str, Any], now: datetime) -> AlertSpan:  # Any: rows
    told = states.get("firing") or states["resolved"]
    resolved = states.get("resolved")
    ended_at, is_known = None, True
    if resolved is not None and resolved.last_received_at >= told.last_received_at:
        ended_at = resolved.ends_at or resolved.last_received_at
    elif told.last_received_at < now - SILENT_AFTER:
        ended_at, is_known = told.last_received_at, False
    return AlertSpan(
        str(told.labels.get("service", "")), told.alertname, str(told.labels.get("severity", "")), told.fingerprint,
        str(told.annotations.get("summary", "")), told.starts_at, ended_at, is_known,
    )  # fmt: skip
