"""The dashboard `monitor-health`: does the monitor itself do what it promises?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import collector_duties, health
from isolation_monitor.dashboards.layout import HEALTH_UID, dashboard


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Does the monitor see, what does it cost, does its evidence arrive, and does the collector do its duties?"""
    return dashboard(
        uid=HEALTH_UID,
        description="Does the monitor see, what does it cost, does its evidence arrive, and does the collector keep house?",
        links=links,
        rows=[*health.rows(t), collector_duties.row(t)],
    )
