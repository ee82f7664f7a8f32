"""All scenarios of the rules, and the links that every alert must carry."""

from __future__ import annotations

from isolation_monitor.alerts import build
from tests.alerts.blindness_scenarios import BLINDNESS_SCENARIOS
from tests.alerts.ci_scenarios import CI_SCENARIOS
from tests.alerts.collector_scenarios import COLLECTOR_SCENARIOS
from tests.alerts.container_scenarios import CONTAINER_ALERTS, CONTAINER_SCENARIOS
from tests.alerts.growth_scenarios import GROWTH_SCENARIOS
from tests.alerts.level_scenarios import LEVEL_SCENARIOS
from tests.alerts.lifecycle_scenarios import LIFECYCLE_SCENARIOS
from tests.alerts.probe_scenarios import PROBE_SCENARIOS
from tests.alerts.resolution_scenarios import RESOLUTION_SCENARIOS
from tests.alerts.rollout_scenarios import ROLLOUT_SCENARIOS
from tests.alerts.score_scenarios import SCORE_SCENARIOS
from tests.alerts.slo_scenarios import SLO_SCENARIOS

SCENARIOS = [
    *GROWTH_SCENARIOS,
    *LEVEL_SCENARIOS,
    *RESOLUTION_SCENARIOS,
    *LIFECYCLE_SCENARIOS,
    *BLINDNESS_SCENARIOS,
    *COLLECTOR_SCENARIOS,
    *SCORE_SCENARIOS,
    *SLO_SCENARIOS,
    *ROLLOUT_SCENARIOS,
    *CONTAINER_SCENARIOS,
    *CI_SCENARIOS,
    *PROBE_SCENARIOS,
]

DASHBOARDS = {
    "event-delivery": {
        "WebSocketIsolationViolation",
        "RunIncomplete",
        "EventDeliveryBelow99",
        "EventDeliveryBelow95",
        "EventDeliveryUnknown",
    },
    "runs": {"RunStuck", "RunsOutOfOrder"},
    "connections": {"WebSocketUserContextBad", "WebSocketHandshakesFailing", "EventsUnrouted"},
    "containment": {"ContainmentBelow100", "Cascade", "LoopStall"},
    "sessions": {"SessionLeak", "SessionAcquisitionSlow"},
    "factories": {"SingletonReuse", "InstanceCreationSlow", "InstanceResetSlow"},
    "process": {"ResourceTrend", "StartupPhaseHanging", "StartupFailed", "StartupSlow", "CleanupLeftovers", "CleanupSlow"},
    "resolution": {"ResolutionBelow99", "ResolutionConflict"},
    "rollout": {"RolloutErrors", "RolloutLatency", "GateError", "RolloutStuck"},
    "flags": {"FlagsStale"},
    "ci-health": {"CiPassRateLow", "CiFlakyTests", "CiRunSlow", "CiRunSlower", "CiMemoryHigh", "CiRunsMissing"},
    "containers": CONTAINER_ALERTS,
    "monitor-health": {
        *{"IsolationTargetDown", "IsolationChecksSilent", "IsolationDetectorSilent", "IsolationDetectorGrey", "IsolationTelemetryDropping"},
        *{"IsolationMonitorErrors", "IsolationCollectorDown", "IsolationEvidenceRefused", "DeadMansSwitch"},
        *{"IsolationRetentionStale", "IsolationKeysStale", "IsolationRollupsFailing"},
    },
    "experience": {"SloBurnsFast", "SloBurnsSlowly", "SloBudgetSpent"},
}
NO_SERVICE = {alert.name for alert in build.alerts() if "service" in alert.labels}
"""Alerts that speak of no service that is watched: they name a part of the product instead."""


def _links(alert: str) -> dict[str, str]:
    uid = next((uid for uid, theirs in DASHBOARDS.items() if alert in theirs), "isolation-overview")
    service = "" if alert in NO_SERVICE else "var-service={{ $labels.service | urlquery }}&"
    return {
        "runbook_url": f"http://localhost:8400/runbooks/{alert}",
        "dashboard_url": f"http://localhost:3000/d/{uid}?{service}from=now-30m&to=now",
    }


LINKS = {
    alert.name: _links(alert.name) | ({"page_url": f"http://localhost:8400{alert.page}"} if alert.page else {}) for alert in build.alerts()
}
