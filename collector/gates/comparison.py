"""The plan of a comparison with the concurrent control, and how its chance of a false alarm is spent.

A rollout may roll back a healthy version with a chance of `alpha` (5 %), once, over all its looks, triggers and stages
together. Bonferroni's rule splits it: each trigger of each stage gets a share, and the shares add up to `alpha`. Early
stages get most, because they have the least traffic. Triggers of zero tolerance spend nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from isolation_monitor.collector.gates.statistics import FIRST_LOOK, delayed_half_width, half_width, mean_bounds

Sequence = Literal["mixture", "delayed"]

STATISTICAL: Final = ("error_rate", "latency", "delivery")
DISASTER: Final = "disaster"
"""The fast lane of the error rate has a share of its own."""
_WEIGHTS: Final = {"error_rate": 0.75, "latency": 0.14, "delivery": 0.05, DISASTER: 0.06}
_FIRST_OF_MIXTURE: Final = 10
_STAGE_RATIO: Final = 0.2
"""What a stage gets of the share of the one before it."""


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """How a stage's arms are compared.

    `percent` is the share of users that get `on`; at 100 there is no control, and the absolute promises `slo_*` hold
    instead. `position` counts the stages that compare from 0; there are `stages` of them.
    """

    percent: float
    position: int = 0
    stages: int = 1
    triggers: tuple[str, ...] = STATISTICAL
    alpha: float = 0.05
    certainty: float = 0.95
    """Of promotion: how sure one must be that the canary is not worse by the margin."""
    error_margin_pp: float = 1.0
    latency_margin_percent: float = 10.0
    min_slow_evidence: int = 300
    """Canary requests that the latency test needs: fifteen of them are beyond the 95th percentile."""
    mismatch_tolerance: float = 0.25
    slo_error_percent: float | None = None
    slo_p95_s: float | None = None
    sequence: Sequence = "delayed"
    """By which bounds: `mixture` from ten blocks on, as decisions of before had it, or `delayed` from twelve on, narrower."""

    def __post_init__(self) -> None:
        if not (0 < self.percent <= 100 and 0 < self.alpha < 0.5 and self.error_margin_pp > 0 and 0 <= self.position < 100):
            raise ValueError(f"a comparison at {self.percent} % with alpha {self.alpha} and margin {self.error_margin_pp} is none")

    @property
    def has_control(self) -> bool:
        return self.percent < 100

    @property
    def min_blocks(self) -> int:
        """Return from how many blocks on the arms are compared."""
        return _FIRST_OF_MIXTURE if self.sequence == "mixture" else FIRST_LOOK

    def bounds(self, trigger: str, values: list[float]) -> tuple[float, float] | None:
        """Return between what the true mean of blocks lies, at this stage's share of alpha; None of too few blocks."""
        if len(values) < self.min_blocks:
            return None
        return mean_bounds(values, self.alpha_of(trigger), half_width if self.sequence == "mixture" else delayed_half_width)

    def alpha_of(self, trigger: str) -> float:
        """Return this stage's share of the rollout's alpha for one trigger."""
        active = [name for name in _WEIGHTS if name in self.triggers or (name == DISASTER and "error_rate" in self.triggers)]
        by_trigger = _WEIGHTS[trigger] / sum(_WEIGHTS[name] for name in active)
        stages = [_STAGE_RATIO**position for position in range(max(self.stages, self.position + 1))]
        return self.alpha * by_trigger * stages[self.position] / sum(stages)

    @staticmethod
    def from_json(value: dict[str, Any]) -> ComparisonPlan:
        # A decision that names none was made before there was a choice.
        return ComparisonPlan(**{"sequence": "mixture", **value, "triggers": tuple(value["triggers"])})
