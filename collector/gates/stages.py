"""What a gate reads of a staged rollout: which stage it is in, since when, and how its arms are compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from isolation_monitor.collector.gates.comparison import STATISTICAL, ComparisonPlan

_OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class WatchedStage:
    """One stage as it is now. `started_at` begins its evidence; `changed_at` is the last change of the rollout."""

    name: str
    started_at: datetime
    changed_at: datetime
    revision: int
    comparison: ComparisonPlan | None


def stage_of(row: Any) -> WatchedStage | None:  # Any: a row of the rollouts table
    """Return the stage of a rollout; None for one that is only watched, or serves nobody."""
    if row.spec is None or row.stage_started_at is None or row.stage == _OFF or row.status == "rolled_back":
        return None
    comparison = None
    chosen = tuple(name for name in STATISTICAL if row.triggers is None or name in row.triggers)
    if row.comparison is not None and chosen:
        comparison = ComparisonPlan(**row.comparison, triggers=chosen)
    return WatchedStage(row.stage, row.stage_started_at, row.changed_at or row.stage_started_at, int(row.revision), comparison)
