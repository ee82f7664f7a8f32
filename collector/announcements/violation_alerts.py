"""Violations as alerts for Alertmanager: what their rules would say, without waiting for a scrape. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from isolation_monitor.alerts.pushed import alert_on_violation, lasts
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.collector.announcements.domain import Links
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.new_violations import NewViolations
from isolation_monitor.telemetry.names import DRILL_PREFIX

Json = dict[str, Any]  # Any: JSON


def alert_of_violations(found: NewViolations, links: Links, more_labels: Mapping[str, str], thresholds: Thresholds, now: datetime) -> Json:
    """Return an alert for Alertmanager's API v2 with exactly the labels that the rule's alert has when it leaves Prometheus.

    It begins now, not with the harm: Alertmanager joins alerts of the same labels that overlap, and one that began before an alert it
    has would take that one's place.
    """
    alert = alert_on_violation(found.kind, thresholds)
    labels = {
        **more_labels,
        "alertname": alert.name,
        "service": found.service,
        "kind": found.kind,
        "synthetic": "true" if found.service.startswith(DRILL_PREFIX) else "false",
        "severity": alert.severity,
        "action": alert.action,
        **({"rollback": "true"} if alert.rollback else {}),
        **alert.labels,
    }
    page = f"{links.collector}/violations/{quote(found.example_id, safe='')}"
    noun = "request" if found.count == 1 else "requests"
    annotations = {
        "summary": alert.summary.replace("{{ $labels.service }}", found.service).replace("{{ $labels.kind }}", found.kind),
        "description": (
            f"{found.count} {noun} of {found.service} with {found.kind}, the last at {rfc3339(found.last)}: told by the service's own "
            "records. Roll back first, then read both sides on the linked page."
        ),
        "runbook_url": f"{links.collector}/runbooks/{alert.name}",
        "page_url": page,
    }
    if links.grafana is not None:
        about = {"var-service": found.service, "from": "now-30m", "to": "now"}
        annotations["dashboard_url"] = f"{links.grafana}/d/{alert.dashboard}?{urlencode(about)}"
    ends = now + lasts(thresholds)
    return {"labels": labels, "annotations": annotations, "startsAt": rfc3339(now), "endsAt": rfc3339(ends), "generatorURL": page}
