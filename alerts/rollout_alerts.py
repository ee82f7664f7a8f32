"""Alerts on rollouts: the two triggers that compare the arms, gates that cannot look or wait for ever, workers that hear of no change.

Errors and latency come in bursts, so the arms are compared by blocks of one minute and not by requests: an alert is
raised when the mean of the blocks is beyond the margin and lies surely above nothing. The collector takes the rollout back
when it hears of it; the page comes whether or not a collector is there.
"""

from __future__ import annotations

from isolation_monitor.alerts.expressions import selector, summed
from isolation_monitor.alerts.model import DURATION, NUMBER, PERCENT, SERVICE, Alert, Group, Recording
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names

ROLLOUT = "{{ $labels.rollout }}"
ERROR_EXCESS = "rollout:error_excess:percent_increase1m"
"""Errors of the arm that has it less errors of the arm that has not, in percentage points of its requests, in the last minute."""
LATENCY_EXCESS = "rollout:latency_excess:percent_p95_1m"
"""By how many percent the slowest 5 % of the arm that has it are slower than those of the other, in the last minute."""
VERDICT_CODE = "isolation_gate_verdict_code"
WAITING = "isolation_gate_waiting_seconds"
COLLECTOR_SERIES = {VERDICT_CODE: frozenset({"service", "rollout"}), WAITING: frozenset({"service", "rollout"})}
"""Series of the collector that rules read, with their labels; no service exposes them."""
_BLOCK = "1m"
_BY = "by (service, rollout)"


def groups(t: Thresholds) -> list[Group]:
    """Return the group that compares the arms, the group of the gates themselves and that of the workers that follow them."""
    return [
        Group("isolation-arms", "15s", [_error_blocks(t), _latency_blocks(t), _errors(t), _latency(t)]),
        Group("isolation-gates", "15s", [_gate_error(t), _stuck(t)]),
        Group("isolation-flags", "15s", [_flags_stale(t)]),
    ]


def _grown(metric: names.Metric, suffix: str = "", **matchers: str) -> str:
    return f"sum {_BY} (increase({selector(metric, suffix, **matchers)}[{_BLOCK}]))"


def _error_blocks(t: Thresholds) -> Recording:
    def percent(arm: str) -> str:
        failed = _grown(names.GATE_REQUESTS, arm=arm, outcome="error")
        return f"100 * {failed} / ({_grown(names.GATE_REQUESTS, arm=arm)} >= {t.rollouts.min_block_requests})"

    return Recording(ERROR_EXCESS, f"{percent('on')}\n-\n{percent('off')}")


def _latency_blocks(t: Thresholds) -> Recording:
    def slowest(arm: str) -> str:
        rates = f"rate({selector(names.GATE_DURATION, '_bucket', arm=arm)}[{_BLOCK}])"
        enough = f"{_grown(names.GATE_DURATION, '_count', arm=arm)} >= {t.rollouts.min_block_durations}"
        return f"(histogram_quantile(0.95, sum by (service, rollout, le) ({rates})) and {enough})"

    return Recording(LATENCY_EXCESS, f"100 * {slowest('on')} / {slowest('off')} - 100")


def _beyond(blocks: str, margin: int, t: Thresholds) -> str:
    """Return the mean of the blocks where it is beyond the margin, and surely above nothing."""
    of = f"{blocks}[{t.rollouts.window}:{_BLOCK}]"
    mean, spread, number = (f"{function}_over_time({of})" for function in ("avg", "stddev", "count"))
    surely = f"0 < {mean} - {t.rollouts.standard_errors} * {spread} / sqrt({number})"
    return f"{mean} > {margin}\nand\n{surely}\nand\n{number} >= {t.rollouts.min_blocks}"


def _errors(t: Thresholds) -> Alert:
    r = t.rollouts
    failed = _grown(names.GATE_REQUESTS, arm="on", outcome="error")
    disaster = f"{ERROR_EXCESS} > {r.disaster_error_percent}\nand\n{failed} >= {r.disaster_errors}"
    return Alert(
        "RolloutErrors",
        f"({_beyond(ERROR_EXCESS, r.max_error_percent, t)})\nor\n({disaster})",
        "critical",
        "page",
        summary=f"{SERVICE}: rollout {ROLLOUT} makes requests fail",
        description=(
            f"Requests of {SERVICE} that have rollout {ROLLOUT} fail more often than those that have not, by {PERCENT} percentage points; "
            f"{r.max_error_percent} is allowed. Both kinds were served at the same time by the same workers."
        ),
        dashboard="rollout",
        rollback=True,
        keep_firing_for=t.violation.keep_firing_for,
        labels={"trigger": "error_rate"},
    )


def _latency(t: Thresholds) -> Alert:
    r = t.rollouts
    served = _grown(names.GATE_DURATION, "_count", arm="on")
    disaster = f"{LATENCY_EXCESS} > {r.disaster_slower_percent}\nand\n{served} >= {r.disaster_durations}"
    return Alert(
        "RolloutLatency",
        f"({_beyond(LATENCY_EXCESS, r.max_slower_percent, t)})\nor\n({disaster})",
        "critical",
        "page",
        summary=f"{SERVICE}: rollout {ROLLOUT} makes requests slow",
        description=(
            f"The slowest 5 % of requests of {SERVICE} that have rollout {ROLLOUT} take {PERCENT} % longer than those that have not; "
            f"{r.max_slower_percent} % is allowed. Both kinds were served at the same time by the same workers."
        ),
        dashboard="rollout",
        rollback=True,
        keep_firing_for=t.violation.keep_firing_for,
        labels={"trigger": "latency"},
    )


def _gate_error(t: Thresholds) -> Alert:
    return Alert(
        "GateError",
        # The best of all replicas: one that can look is enough.
        f"max {_BY} ({VERDICT_CODE}) == -2",
        "error",
        "ticket",
        summary=f"{SERVICE}: the gate of rollout {ROLLOUT} cannot look",
        description=(
            f"For {t.rollouts.gate_error_for} the gate of rollout {ROLLOUT} of {SERVICE} has come to no verdict, because it cannot read "
            "what it judges by. The rollout waits: nothing advances and nothing is rolled back for it. Violation records still act."
        ),
        dashboard="rollout",
        for_=t.rollouts.gate_error_for,
    )


def _stuck(t: Thresholds) -> Alert:
    return Alert(
        "RolloutStuck",
        f"min {_BY} ({WAITING}) > {t.rollouts.max_waiting_s}",
        "warning",
        "ticket",
        summary=f"{SERVICE}: rollout {ROLLOUT} waits for evidence that does not come",
        description=(
            f"The gate of rollout {ROLLOUT} of {SERVICE} has waited for {DURATION} and is still without a verdict. "
            "Its users keep what they have. Send it more traffic, ask for less evidence, or take it back."
        ),
        dashboard="rollout",
    )


def _flags_stale(t: Thresholds) -> Alert:
    return Alert(
        "FlagsStale",
        f"{summed(selector(names.FLAG_STALE))} > 0",
        "warning",
        "ticket",
        summary=f"{SERVICE}: workers hear nothing of the flags' rules",
        description=(
            f"{NUMBER} workers of {SERVICE} have heard nothing of the flags' rules for more than {t.rollouts.flags_stale_for}. Their users "
            "keep the variants that they have; a rollback does not reach them."
        ),
        dashboard="flags",
        for_=t.rollouts.flags_stale_for,
    )
