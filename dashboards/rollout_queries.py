"""PromQL of the dashboard `rollout`: the arms side by side, and what the gates of the chosen services and rollouts say."""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.rollout_alerts import ERROR_EXCESS, LATENCY_EXCESS, VERDICT_CODE, WAITING
from isolation_monitor.dashboards.queries import (
    ONE_OF_SCORED,
    RANGE,
    STEP,
    error_share_of_arms,
    grown,
    quantile,
    rate,
    recorded,
    share_with_variant,
)
from isolation_monitor.telemetry import names

_EVIDENCE: Final = "isolation_gate_evidence_ratio"
_VALUE: Final = "isolation_gate_value"
_THRESHOLD: Final = "isolation_gate_threshold"
_CHOSEN: Final = {"rollout": "=~$rollout"}

ROLLOUTS: Final = f'label_values({{__name__=~"{names.GATE_REQUESTS.name}|{VERDICT_CODE}",service=~"$service"}}, rollout)'
"""Values of the variable `rollout`: those that serve requests, and those of which only the gate knows."""


def verdicts() -> str:
    """The verdict of each gate: 1 pass, 0 inconclusive, -1 fail, -2 error; the worst of what replicas say."""
    return f"min by (service, rollout) ({_of(VERDICT_CODE)})"


def gates_failed() -> str:
    """How many gates have failed; none while nobody asks a gate."""
    return f"count({_of(VERDICT_CODE)} == -1) or 0 * count({_of(VERDICT_CODE)})"


def gates_blind() -> str:
    """How many gates cannot look; none while nobody asks a gate."""
    return f"count({_of(VERDICT_CODE)} == -2) or 0 * count({_of(VERDICT_CODE)})"


def least_evidence() -> str:
    """Evidence so far by evidence needed, 0-1, of the gate that lacks most."""
    return f"min({_of(_EVIDENCE)})"


def evidence() -> str:
    return f"min by (service, rollout) ({_of(_EVIDENCE)})"


def longest_wait() -> str:
    """Seconds that the gate which waits longest has waited."""
    return f"max({_of(WAITING)})"


def waits() -> str:
    return f"min by (service, rollout) ({_of(WAITING)})"


def decided() -> str:
    """One sample where the verdict of a gate has just changed."""
    return f"max by (service, rollout) (changes({_of(VERDICT_CODE)}[{STEP}])) > 0"


def values() -> str:
    """What the gates counted, by name."""
    return f"max by (service, rollout, name) ({_of(_VALUE)})"


def thresholds() -> str:
    """What the gates hold it to, by name."""
    return f"max by (service, rollout, name) ({_of(_THRESHOLD)})"


def requests() -> str:
    return rate(names.GATE_REQUESTS, "rollout", "arm", **_CHOSEN)


def share_on() -> str:
    return share_with_variant("rollout", **_CHOSEN)


def failed_share() -> str:
    return error_share_of_arms(**_CHOSEN)


def slowest() -> str:
    return quantile(0.95, names.GATE_DURATION, "rollout", "arm", **_CHOSEN)


def violations() -> str:
    return grown(names.GATE_VIOLATIONS, STEP, "rollout", "arm", grade=ONE_OF_SCORED, **_CHOSEN)


def violations_in_range() -> str:
    return grown(names.GATE_VIOLATIONS, RANGE, grade=ONE_OF_SCORED, **_CHOSEN)


def error_excess() -> str:
    return _of(ERROR_EXCESS)


def latency_excess() -> str:
    return _of(LATENCY_EXCESS)


def _of(name: str) -> str:
    """Return the selector of a recorded series, or of one of a collector, of the chosen services and rollouts."""
    return recorded(name, **_CHOSEN)
