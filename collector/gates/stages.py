"""What a gate reads of a staged rollout: which stage it is in, since when, and how its arms are compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from isolation_monitor.collector.gates.comparison import STATISTICAL, ComparisonPlan

_OFF: Final = "off"
_DEFAULT_PERCENTS: Final = (10.0, 50.0, 100.0)
_DEFAULT_HOLDBACK: Final = 2.0


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
    spec = row.spec
    if not spec or row.stage_started_at is None or row.stage == _OFF or row.status == "rolled_back":
        return None
    comparison = None
    chosen = tuple(name for name in STATISTICAL if row.triggers is None or name in row.triggers)
    if row.stage_kind != "internal" and chosen:
        percents = [float(stage["percent"]) for stage in spec.get("stages") or [] if stage.get("percent")] or list(_DEFAULT_PERCENTS)
        # Those who are held back are the control of the last stage.
        percent = min(float(row.percent), 100.0 - float(spec.get("holdback_percent", _DEFAULT_HOLDBACK)))
        position = sum(other < float(row.percent) for other in percents)
        comparison = ComparisonPlan(percent, position=position, stages=len(percents), triggers=chosen)
    return WatchedStage(row.stage, row.stage_started_at, row.changed_at or row.stage_started_at, int(row.revision), comparison)
