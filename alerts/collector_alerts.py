"""Alerts on what the collector promises beside taking records: to forget in time, and to let in only whom its keys name now."""

from __future__ import annotations

from isolation_monitor.alerts.model import DURATION, Alert, Group
from isolation_monitor.alerts.prometheus_config import COLLECTOR_JOB
from isolation_monitor.alerts.thresholds import Thresholds

LAST_ROUND = "isolation_collector_retention_last_success_timestamp_seconds"
ROUND_INTERVAL = "isolation_collector_retention_interval_seconds"
KEYS_STALE = "isolation_collector_keys_stale"
ROLLUPS = "isolation_collector_rollup_rounds_total"
COLLECTOR_SERIES = {
    LAST_ROUND: frozenset[str](),
    ROUND_INTERVAL: frozenset[str](),
    KEYS_STALE: frozenset[str](),
    ROLLUPS: frozenset({"result"}),
}
"""Series of the collector that rules read, with their labels; no service exposes them."""
_COLLECTOR = {"service": "isolation-collector"}
# Replicas are one collector; a drill's labels tell its target apart.
_ALL = "max by (synthetic, drill)"
# The last round of a collector that never had one was at 0, long before anything ran.
_SINCE = f"{{{{ if lt $value 1e9 }}}}for {DURATION}{{{{ else }}}}as far back as is known{{{{ end }}}}"


def groups(t: Thresholds) -> list[Group]:
    """Return the group of alerts on the collector's own duties."""
    return [Group("isolation-collector", "15s", [_retention_stale(t), _keys_stale(t), _rollups_failing(t)])]


def _retention_stale(t: Thresholds) -> Alert:
    c, of = t.collector, f'{{job="{COLLECTOR_JOB}"}}'
    return Alert(
        "IsolationRetentionStale",
        f"time() - {_ALL} (max_over_time({LAST_ROUND}{of}[{c.rounds_remembered}])) > {c.max_missed_rounds} * {_ALL} ({ROUND_INTERVAL}{of})",
        "warning",
        "ticket",
        summary="The isolation collector forgets nothing any more",
        description=(
            f"No collector has come to the end of a round of expiry {_SINCE}: more than {c.max_missed_rounds} of its intervals. "
            "Evidence is kept for longer than was promised, and the store grows. On PostgreSQL the days ahead may lack their partitions."
        ),
        dashboard="monitor-health",
        for_=c.retention_stale_for,
        labels=_COLLECTOR,
    )


def _keys_stale(t: Thresholds) -> Alert:
    c = t.collector
    return Alert(
        "IsolationKeysStale",
        f'{_ALL} ({KEYS_STALE}{{job="{COLLECTOR_JOB}"}}) > 0',
        "error",
        "ticket",
        summary="The isolation collector cannot read its keys: those from before hold",
        description=(
            f"For {c.keys_stale_for} a file of tokens or keys has been changed and unreadable to a collector. New keys do not open it "
            "yet, and revoked ones still do; it would not start again with this file."
        ),
        dashboard="monitor-health",
        for_=c.keys_stale_for,
        labels=_COLLECTOR,
    )


def _rollups_failing(t: Thresholds) -> Alert:
    c = t.collector

    def rounds(result: str) -> str:
        of = f'{{job="{COLLECTOR_JOB}", result="{result}"}}'
        return f"sum by (synthetic, drill) (increase({ROLLUPS}{of}[{c.rollups_window}]))"

    return Alert(
        "IsolationRollupsFailing",
        f"{rounds('failed')} >= {c.min_failed_rollups} unless {rounds('ok')} > 0",
        "warning",
        "ticket",
        summary="The isolation collector cannot sum up the days that are over",
        description=(
            f'In {c.rollups_window} {{{{ $value | printf "%.0f" }}}} rounds of summing up failed and none went well. Answers stay right, '
            "but those over many days read every record, and get slow as the store grows."
        ),
        dashboard="monitor-health",
        labels=_COLLECTOR,
    )
