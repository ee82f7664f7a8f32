"""All scenarios of the rules, and the links that every alert must carry."""

from __future__ import annotations

from isolation_monitor.alerts import build
from tests.alerts.blindness_scenarios import BLINDNESS_SCENARIOS
from tests.alerts.growth_scenarios import GROWTH_SCENARIOS
from tests.alerts.level_scenarios import LEVEL_SCENARIOS
from tests.alerts.probe_scenarios import PROBE_SCENARIOS
from tests.alerts.resolution_scenarios import RESOLUTION_SCENARIOS
from tests.alerts.rollout_scenarios import ROLLOUT_SCENARIOS
from tests.alerts.score_scenarios import SCORE_SCENARIOS
from tests.alerts.slo_scenarios import SLO_SCENARIOS

SCENARIOS = [
    *GROWTH_SCENARIOS,
    *LEVEL_SCENARIOS,
    *RESOLUTION_SCENARIOS,
    *BLINDNESS_SCENARIOS,
    *SCORE_SCENARIOS,
    *SLO_SCENARIOS,
    *ROLLOUT_SCENARIOS,
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
    "process": {"ResourceTrend"},
    "resolution": {"ResolutionBelow99", "ResolutionConflict"},
    "rollout": {"RolloutErrors", "RolloutLatency", "GateError", "RolloutStuck"},
    "flags": {"FlagsStale"},
    "experience": {"SloBurnsFast", "SloBurnsSlowly", "SloBudgetSpent"},
}
_NO_SERVICE = {"IsolationCollectorDown", "IsolationEvidenceRefused", "DeadMansSwitch"}


def _links(alert: str) -> dict[str, str]:
    uid = next((uid for uid, theirs in DASHBOARDS.items() if alert in theirs), "isolation-overview")
    service = "" if alert in _NO_SERVICE else "var-service={{ $labels.service | urlquery }}&"
    return {
        "runbook_url": f"http://localhost:8400/runbooks/{alert}",
        "dashboard_url": f"http://localhost:3000/d/{uid}?{service}from=now-30m&to=now",
    }


LINKS = {alert.name: _links(alert.name) for alert in build.alerts()}
