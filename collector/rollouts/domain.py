"""A rollout in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

DEFAULT_MIN_EXPOSED_REQUESTS: Final = 300
"""0 violations in 299 requests says: fewer than 1 % at 95 % (canary-gates reference, 3.1)."""
DEFAULT_MIN_OWED_EVENTS: Final = 100
"""Below this, a few lost events decide a share of 95 % by chance."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What its owner asks for. `arm` None means all arms; `min_owed_events` 0 means a service without runs."""

    name: str
    service: str
    arm: str | None
    min_exposed_requests: int = DEFAULT_MIN_EXPOSED_REQUESTS
    min_owed_events: int = DEFAULT_MIN_OWED_EVENTS


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout under watch. `started_at` is the collector's time; `failed_at` stays once it is set."""

    plan: RolloutPlan
    started_at: datetime
    failed_at: datetime | None
