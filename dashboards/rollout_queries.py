"""PromQL of the dashboard `rollout`: the arms side by side, and what the gates of the chosen services say."""

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


def verdicts() -> str:
    """The verdict of each gate: 1 pass, 0 inconclusive, -1 fail, -2 error; the worst of what replicas say."""
    return f"min by (service, rollout) ({recorded(VERDICT_CODE)})"


def gates_failed() -> str:
    """How many gates have failed; none while nobody asks a gate."""
    return f"count({recorded(VERDICT_CODE)} == -1) or 0 * count({recorded(VERDICT_CODE)})"


def gates_blind() -> str:
    """How many gates cannot look; none while nobody asks a gate."""
    return f"count({recorded(VERDICT_CODE)} == -2) or 0 * count({recorded(VERDICT_CODE)})"


def least_evidence() -> str:
    """Evidence so far by evidence needed, 0-1, of the gate that lacks most."""
    return f"min({recorded(_EVIDENCE)})"


def evidence() -> str:
    return f"min by (service, rollout) ({recorded(_EVIDENCE)})"


def longest_wait() -> str:
    """Seconds that the gate which waits longest has waited."""
    return f"max({recorded(WAITING)})"


def waits() -> str:
    return f"min by (service, rollout) ({recorded(WAITING)})"


def decided() -> str:
    """One sample where the verdict of a gate has just changed."""
    return f"max by (service, rollout) (changes({recorded(VERDICT_CODE)}[{STEP}])) > 0"


def values() -> str:
    """What the gates counted, by name."""
    return f"max by (service, rollout, name) ({recorded(_VALUE)})"


def thresholds() -> str:
    """What the gates hold it to, by name."""
    return f"max by (service, rollout, name) ({recorded(_THRESHOLD)})"


def requests() -> str:
    return rate(names.GATE_REQUESTS, "rollout", "arm")


def share_on() -> str:
    return share_with_variant("rollout")


def failed_share() -> str:
    return error_share_of_arms()


def slowest() -> str:
    return quantile(0.95, names.GATE_DURATION, "rollout", "arm")


def violations() -> str:
    return grown(names.GATE_VIOLATIONS, STEP, "rollout", "arm", grade=ONE_OF_SCORED)


def violations_in_range() -> str:
    return grown(names.GATE_VIOLATIONS, RANGE, grade=ONE_OF_SCORED)


def error_excess() -> str:
    return recorded(ERROR_EXCESS)


def latency_excess() -> str:
    return recorded(LATENCY_EXCESS)
