"""Every query on rollouts."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.rollouts.domain import Rollout, RolloutPlan
from isolation_monitor.collector.storage.models import RolloutRow


class RolloutRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, plan: RolloutPlan, started_at: datetime) -> None:
        """Insert the rollout unless its name is taken."""
        insert = postgresql.insert if self._connection.dialect.name == "postgresql" else sqlite.insert
        values = asdict(plan) | {"started_at": started_at, "failed_at": None, "failed_decision_id": None}
        await self._connection.execute(insert(RolloutRow).values(values).on_conflict_do_nothing(index_elements=["name"]))

    async def get(self, name: str) -> Rollout | None:
        row = (await self._connection.execute(select(RolloutRow.__table__).where(RolloutRow.name == name))).one_or_none()
        if row is None:
            return None
        plan = RolloutPlan(row.name, row.service, row.arm, row.min_exposed_requests, row.min_owed_events)
        return Rollout(plan, row.started_at, row.failed_at)
