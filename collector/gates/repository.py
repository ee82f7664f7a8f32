"""Every query a gate needs: the plan, the records of the rollout's time, decisions and the latch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from isolation_monitor.collector.gates.domain import RecordCounts
from isolation_monitor.collector.gates.stages import WatchedStage, stage_of
from isolation_monitor.collector.storage.models import DecisionRow, RolloutRow, ViolationRow, counting, crossing
from isolation_monitor.telemetry.names import INSTANCE_REUSE, SESSION_LEAK

Json = dict[str, Any]  # Any: JSON as it was stored

_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class WatchedRollout:
    """What the gate reads of a rollout. `failed_answer` is the answer that closed the latch.

    `started_at` is the rollout's start, `evidence_since` its stage's: evidence of two stages is never mixed, harm counts
    from the start. `triggers` None means a rollout without stages, which has all of them.
    """

    name: str
    service: str
    arm: str | None
    min_exposed_requests: int
    min_owed_events: int
    started_at: datetime
    failed_answer: Json | None
    evidence_since: datetime
    stage_kind: str = "percent"
    triggers: tuple[str, ...] | None = None
    rolled_back: str = ""
    """Why it was rolled back; empty when it was not."""
    stage: WatchedStage | None = None

    @property
    def harm_arm(self) -> str | None:
        """Return the arm whose violations count. In stages all do: the new code's victim may be anybody's neighbour."""
        return self.arm if self.triggers is None else None


@dataclass(frozen=True, slots=True)
class Decision:
    """One evaluation with all that went in."""

    id: str
    rollout: str
    as_of: datetime
    verdict: str
    answer: Json
    inputs: Json
    config: Json
    config_sha256: str
    inputs_sha256: str


@dataclass(frozen=True, slots=True)
class Newest:
    """What the gate said last of a rollout."""

    verdict: str
    as_of: datetime


class GateRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rollout(self, name: str) -> WatchedRollout | None:
        statement = (
            select(RolloutRow.__table__, DecisionRow.answer)
            .outerjoin_from(RolloutRow, DecisionRow, DecisionRow.id == RolloutRow.failed_decision_id)
            .where(RolloutRow.name == name)
        )
        row = (await self._connection.execute(statement)).one_or_none()
        if row is None:
            return None
        return WatchedRollout(
            row.name, row.service, row.arm, row.min_exposed_requests, row.min_owed_events, row.started_at, row.answer,
            row.stage_started_at or row.started_at, row.stage_kind, None if row.triggers is None else tuple(row.triggers),
            row.reason or "by hand" if row.status == "rolled_back" else "", stage_of(row),
        )  # fmt: skip

    async def counts(self, service: str, arm: str | None, since: datetime) -> RecordCounts:
        """Count what happened *and* arrived since `since`: a backlog of older records says nothing about this rollout."""
        row = ViolationRow
        mine = [row.service == service, row.received_at >= since, row.time >= since, *counting()]
        if arm is not None:
            mine.append(row.arm == arm)
        total = func.coalesce(func.sum(row.count), 0)
        violations = (await self._connection.execute(select(total).where(*mine, crossing()))).scalar_one()
        leaks = (await self._connection.execute(select(total).where(*mine, row.kind == SESSION_LEAK))).scalar_one()
        reuses = (await self._connection.execute(select(total).where(*mine, crossing(), row.kind == INSTANCE_REUSE))).scalar_one()
        examples = await self._connection.execute(select(row.id).where(*mine, crossing()).order_by(row.time, row.id).limit(_EXAMPLES))
        return RecordCounts(int(violations), int(leaks), tuple(examples.scalars()), int(reuses))

    async def add(self, decision: Decision) -> None:
        await self._connection.execute(
            DecisionRow.__table__.insert(),  # type: ignore[attr-defined]  # declared as FromClause, is a Table
            {field: getattr(decision, field) for field in Decision.__slots__},
        )

    async def latch(self, decision: Decision, started_at: datetime) -> None:
        """Close the latch of the rollout with this decision, unless it is closed already, or was re-armed and began anew since."""
        statement = (
            update(RolloutRow)
            .where(RolloutRow.name == decision.rollout, RolloutRow.failed_at.is_(None), RolloutRow.started_at == started_at)
            .values(failed_at=decision.as_of, failed_decision_id=decision.id)
        )
        await self._connection.execute(statement)

    async def lock(self, rollout: str) -> None:
        """Let other evaluations of this rollout wait for this transaction, so that none overtakes a closing latch."""
        await self._connection.execute(select(RolloutRow.name).where(RolloutRow.name == rollout).with_for_update())

    async def decision(self, rollout: str, decision_id: str) -> Decision | None:
        statement = select(DecisionRow.__table__).where(DecisionRow.id == decision_id, DecisionRow.rollout == rollout)
        row = (await self._connection.execute(statement)).one_or_none()
        if row is None:
            return None
        return Decision(**{field: getattr(row, field) for field in Decision.__slots__})

    async def newest(self) -> dict[str, Newest]:
        """Return the newest verdict of each rollout by its name, without what went in."""
        row, own = DecisionRow, aliased(DecisionRow)
        newest = select(own.id).where(own.rollout == RolloutRow.name).order_by(own.as_of.desc(), own.id.desc()).limit(1)
        statement = select(row.rollout, row.verdict, row.as_of).join(RolloutRow, row.id == newest.scalar_subquery())
        return {found.rollout: Newest(found.verdict, found.as_of) for found in await self._connection.execute(statement)}

    async def latest(self, rollout: str, limit: int) -> list[Decision]:
        """Return the newest decisions of a rollout, newest first."""
        statement = (
            select(DecisionRow.__table__).where(DecisionRow.rollout == rollout).order_by(DecisionRow.as_of.desc(), DecisionRow.id.desc())
        )
        return [
            Decision(**{field: getattr(row, field) for field in Decision.__slots__})
            for row in await self._connection.execute(statement.limit(limit))
        ]
