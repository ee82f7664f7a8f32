"""Alerts that the collector hands to Alertmanager itself, beside Prometheus: which rule speaks for a violation.

Alertmanager takes alerts of the same labels for one. So these have the labels of the rule to the letter, and whoever comes second
adds nothing: one page, by the faster way.
"""

from __future__ import annotations

from datetime import timedelta

from isolation_monitor.alerts import isolation_alerts, resolution_alerts
from isolation_monitor.alerts.model import Alert
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names


def alert_on_violation(kind: str, thresholds: Thresholds) -> Alert:
    """Return the alert whose rule fires for violations of `kind` that are `crossed` or `reachable`."""
    if kind == names.WRONG_SOCKET:
        return isolation_alerts.wrong_socket(thresholds)
    if kind == names.ID_RESOLUTION:
        return resolution_alerts.conflict(thresholds)
    return isolation_alerts.violation(thresholds)


def lasts(thresholds: Thresholds) -> timedelta:
    """Return how long the page of a violation stays after it, as that of its rule does."""
    return timedelta(seconds=thresholds.violation.window.seconds + thresholds.violation.keep_firing_for.seconds)
