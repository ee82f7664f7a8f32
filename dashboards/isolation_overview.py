"""The dashboard `isolation-overview`: is anyone seeing another's data, and would we know?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import answers, causes, probes, routes, violations
from isolation_monitor.dashboards.layout import OVERVIEW_UID, dashboard


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Is anyone seeing another's data? Are we blind? What is the score, and how much of the traffic does it speak for?"""
    return dashboard(
        uid=OVERVIEW_UID,
        description=(
            "Is one user's request touching another's, and would we see it? Green means looked and found nothing; grey means not measured."
        ),
        links=links,
        rows=[answers.row(t), violations.row(t), causes.row(t), probes.row(t), routes.row()],
    )
