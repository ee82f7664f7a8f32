"""Every query on rollouts, their history, and the alerts that may be against them."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.rollouts.domain import (
    OFF,
    Alarm,
    Rollout,
    RolloutEvent,
    RolloutPlan,
    RolloutState,
    StagedRollout,
    Step,
)
from isolation_monitor.collector.rollouts.spec import RolloutSpec, parse_spec
from isolation_monitor.collector.storage.database import insert_into
from isolation_monitor.collector.storage.models import NotificationRow, RolloutEventRow, RolloutRow

Values = dict[str, Any]  # Any: column values

SERVING: Final = ("running", "held", "complete")
"""Users may have it on."""
_ALARM_LIMIT: Final = 500
_EVENT_FIELDS: Final = tuple(field.name for field in fields(RolloutEvent))


class RolloutRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def serialize(self) -> None:
        """Let changes of rollouts come one after the other until the transaction ends, in the order of their sequence.

        They are rare; without this, a reader could see a change and miss the one before it. SQLite has one writer anyway.
        """
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(text("SELECT pg_advisory_xact_lock(7341002)"))

    async def add(self, plan: RolloutPlan, started_at: datetime) -> None:
        """Insert a rollout that is only watched, unless its name is taken."""
        values = asdict(plan) | _FRESH | {"started_at": started_at, "status": "running"}
        unless_there = insert_into(self._connection, RolloutRow).values(values).on_conflict_do_nothing(index_elements=["name"])
        await self._connection.execute(unless_there)

    async def get(self, name: str) -> Rollout | None:
        row = (await self._connection.execute(select(RolloutRow.__table__).where(RolloutRow.name == name))).one_or_none()
        return None if row is None else _rollout(row)

    async def all(self, service: str | None) -> list[Rollout]:
        """Return all rollouts by name, of one service or of every one."""
        statement = select(RolloutRow.__table__).order_by(RolloutRow.name)
        if service is not None:
            statement = statement.where(RolloutRow.service == service)
        return [_rollout(row) for row in await self._connection.execute(statement)]

    async def staged(self, name: str, *, lock: bool = False) -> StagedRollout | None:
        """Return a rollout with a file; None when there is none of this name, or it is only watched."""
        statement = select(RolloutRow.__table__).where(RolloutRow.name == name, RolloutRow.spec.is_not(None))
        row = (await self._connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
        return None if row is None else _staged(row)

    async def of_service(self, service: str | None, *, serving: bool = False) -> list[StagedRollout]:
        """Return the rollouts with a file by name, of one service or of every one; with `serving` those that users may have on only."""
        statement = select(RolloutRow.__table__).where(RolloutRow.spec.is_not(None)).order_by(RolloutRow.name)
        if service is not None:
            statement = statement.where(RolloutRow.service == service)
        if serving:
            statement = statement.where(RolloutRow.status.in_(SERVING))
        return [_staged(row) for row in await self._connection.execute(statement)]

    async def insert(self, spec: RolloutSpec, state: RolloutState, at: datetime) -> None:
        """Insert a rollout with its file."""
        values = _FRESH | _asked(spec, OFF) | _stated(state) | {"name": state.name, "started_at": at, "stage_started_at": at}
        await self._connection.execute(RolloutRow.__table__.insert(), values)  # type: ignore[attr-defined]  # is a Table

    async def save(self, spec: RolloutSpec, state: RolloutState, revision: int, taken: Step | None = None) -> bool:
        """Write the new state over `revision`; say whether it was still the one to be changed. `taken` None: only the file changed."""
        values = _asked(spec, state.stage) | _stated(state)
        if taken is not None and taken.begins_stage:
            values |= {"stage_started_at": state.changed_at, "soaked_s": 0.0, "soaked_at": None}
        if taken is not None and taken.begins_rollout:
            values["started_at"] = state.changed_at
        if taken is not None and (taken.begins_rollout or taken.status == "ready"):
            values |= {"failed_at": None, "failed_decision_id": None}
        statement = update(RolloutRow).where(RolloutRow.name == state.name, RolloutRow.revision == revision).values(values)
        return bool((await self._connection.execute(statement)).rowcount == 1)

    async def soak(self, name: str, revision: int, soaked_s: float, at: datetime) -> None:
        statement = update(RolloutRow).where(RolloutRow.name == name, RolloutRow.revision == revision)
        await self._connection.execute(statement.values(soaked_s=soaked_s, soaked_at=at))

    async def next_sequence(self) -> int:
        return await self.newest_sequence() + 1

    async def newest_sequence(self) -> int:
        """Return the sequence of the newest change of all rollouts; 0 before the first."""
        return int((await self._connection.execute(select(func.coalesce(func.max(RolloutEventRow.sequence), 0)))).scalar_one())

    async def record(self, event: RolloutEvent) -> None:
        await self._connection.execute(RolloutEventRow.__table__.insert(), asdict(event))  # type: ignore[attr-defined]  # is a Table

    async def history(self, name: str, limit: int) -> list[RolloutEvent]:
        """Return the newest changes of a rollout, newest first."""
        row = RolloutEventRow
        statement = select(row.__table__).where(row.rollout == name).order_by(row.sequence.desc()).limit(limit)
        return [_event(found) for found in await self._connection.execute(statement)]

    async def unannounced(self, at: datetime, limit: int) -> list[RolloutEvent]:
        """Return changes that nobody was told about and nobody is telling of now, oldest first."""
        row = RolloutEventRow
        due = or_(row.announce_after.is_(None), row.announce_after <= at)
        statement = select(row.__table__).where(row.announced_at.is_(None), due).order_by(row.sequence).limit(limit)
        return [_event(found) for found in await self._connection.execute(statement)]

    async def claim(self, event_id: str, at: datetime, lease_s: float) -> bool:
        """Reserve the telling of a change; False when somebody else has it."""
        row = RolloutEventRow
        due = or_(row.announce_after.is_(None), row.announce_after <= at)
        statement = update(row).where(row.id == event_id, row.announced_at.is_(None), due)
        claimed = await self._connection.execute(statement.values(announce_after=at + timedelta(seconds=lease_s)))
        return bool(claimed.rowcount == 1)

    async def announced(self, event_id: str, at: datetime) -> None:
        await self._connection.execute(update(RolloutEventRow).where(RolloutEventRow.id == event_id).values(announced_at=at))

    async def alarms(self, service: str, since: datetime) -> list[Alarm]:
        """Return what Alertmanager delivered as firing of a service, asks for a rollback and began at `since` or later.

        The newest ones, should there be very many: a rollout must hear of the last as it does of the first.
        """
        row = NotificationRow
        statement = select(row.labels, row.annotations, row.starts_at).where(
            row.status == "firing",
            row.starts_at >= since,
            row.labels["rollback"].as_string() == "true",
            row.labels["service"].as_string() == service,
        )
        found = await self._connection.execute(statement.order_by(row.starts_at.desc()).limit(_ALARM_LIMIT))
        return [Alarm(item.labels, item.annotations.get("summary", ""), item.starts_at) for item in found]


_FRESH: Final[Values] = {
    "failed_at": None,
    "failed_decision_id": None,
    "spec": None,
    "stage": "",
    "stage_kind": "percent",
    "triggers": None,
    "stage_started_at": None,
    "percent": 0.0,
    "revision": 0,
    "changed_at": None,
    "reason": "",
    "actor": "",
    "soaked_s": 0.0,
    "soaked_at": None,
}


def _asked(spec: RolloutSpec, stage_name: str) -> Values:
    """Return what the gate asks for in a stage; before the first one it is what the first will ask for."""
    stage = spec.stage(stage_name) or spec.stages[0]
    compared = [one for one in spec.stages if one.kind == "percent"]
    return {
        "service": spec.service,
        "arm": "on",
        "min_exposed_requests": stage.minimum.exposed_requests,
        "min_owed_events": stage.minimum.owed_events,
        "stage_kind": stage.kind,
        "triggers": list(stage.triggers),
        "comparison": {
            # Those who are held back are the control of the last stage.
            "percent": min(stage.percent, 100.0 - spec.holdback_percent),
            "position": compared.index(stage),
            "stages": len(compared),
            "slo_error_percent": spec.slo_error_percent,
            "slo_p95_s": spec.slo_p95_s,
        }
        if stage in compared
        else None,
        "spec": dict(spec.source),
    }


def _stated(state: RolloutState) -> Values:
    return {
        "status": state.status,
        "stage": state.stage,
        "percent": state.percent,
        "revision": state.revision,
        "changed_at": state.changed_at,
        "reason": state.reason,
        "actor": state.actor,
    }


def _rollout(row: Row[Any]) -> Rollout:
    plan = RolloutPlan(row.name, row.service, row.arm, row.min_exposed_requests, row.min_owed_events)
    if row.spec is None:
        return Rollout(plan, row.started_at, row.failed_at)
    return Rollout(plan, row.started_at, row.failed_at, _staged(row))


def _staged(row: Row[Any]) -> StagedRollout:
    spec = parse_spec(row.spec)
    state = RolloutState(
        row.name, row.service, row.status, row.stage, row.percent, spec.internal_users, spec.holdback_percent,
        row.revision, row.changed_at, row.reason, row.actor,
    )  # fmt: skip
    return StagedRollout(spec, state, row.started_at, row.stage_started_at, row.soaked_s, row.soaked_at)


def _event(row: Row[Any]) -> RolloutEvent:
    return RolloutEvent(**{name: getattr(row, name) for name in _EVENT_FIELDS})
