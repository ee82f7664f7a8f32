"""Scenarios of the alerts that read a grown counter. Each has one service per way in which a counter can move.

The moment of truth is `at`; until then every service is silent. `fires`: 0 to 1. `fresh`: the series is born with 1
(the trap: `increase()` never sees it). `reset`: 5 to 0, then 1. `reborn`: 5 to 2. `twin`: 1 to 0 to 1. `missed`: grew
while its target was not scraped; `returned`: restarted then. Silent for ever: `back` (its target came back with the
old value), `quiet`, `zero`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.real_parts.promtool import Firing, Scenario, series

GROWTH = {"fires": 1, "fresh": 1, "reset": 1, "reborn": 2, "twin": 1, "missed": 1, "returned": 2}


def movements(at: int, window_s: int, seconds: int) -> dict[str, str]:
    # What happens while nobody scrapes lasts longer than the alert's window: `increase()` must not see both ends.
    unscraped = f"5x{at - window_s - 2} stale _x{window_s}"
    return {
        "fires": f"0x{at - 1} 1x{seconds}",
        "fresh": f"_x{at} 1x{seconds}",
        "reset": f"5x{at - window_s - 1} 0x{window_s - 1} 1x{seconds}",
        "reborn": f"5x{at - 1} 2x{seconds}",
        "twin": f"1x{at - 5} 0x3 1x{seconds}",
        "missed": f"{unscraped} 6x{seconds}",
        "returned": f"{unscraped} 2x{seconds}",
        "back": f"{unscraped} 5x{seconds}",
        "quiet": f"7x{at + seconds}",
        "zero": f"0x{at + seconds}",
    }


@dataclass(frozen=True)
class GrowthCase:
    """One alert on a grown counter. `labels` are its own labels, `service` apart; `text` makes its description of a number."""

    alert: str
    metric: str
    series_labels: dict[str, str]
    labels: dict[str, str]
    summary: str
    text: Callable[[int, str], str]
    silent: list[dict[str, str]] = field(default_factory=list)
    window_s: int = 10
    keep_s: int = 60

    def scenario(self) -> Scenario:
        at = (self.window_s + self.keep_s) * 2
        moving = {
            series(self.metric, {"service": service, **self.series_labels}): movement
            for service, movement in movements(at, self.window_s, self.window_s + self.keep_s + 60).items()
        }
        # Series of the same metric that are none of this alert's business jump by 9 at the same moment.
        moving |= {series(self.metric, {"service": f"other{n}", **labels}): f"0x{at - 1} 9x200" for n, labels in enumerate(self.silent)}
        firing = [
            Firing({"service": service, **self.labels}, f"{service}: {self.summary}", self.text(number, service))
            for service, number in GROWTH.items()
        ]
        # The condition holds for the window; the alert is kept for `keep_s` after it and then resolves.
        end, pace = at + self.window_s + self.keep_s, self.window_s // 5
        moments = {at - pace: [], at + pace: firing, end - 2 * pace: firing, end + 2 * pace: []}
        name = f"{self.alert} {self.labels.get('kind', '')} grows"
        return Scenario(name, moving, self.alert, moments, every_s=pace)


_PAGE = {"action": "page"}
_CRITICAL = {"severity": "critical", "rollback": "true", **_PAGE}
_VIOLATIONS = "isolation_violations_total"

GROWTH_CASES = [
    GrowthCase(
        "IsolationViolation",
        _VIOLATIONS,
        {"kind": "instance_reuse", "grade": "reachable", "synthetic": "false", "arm": "none"},
        {"kind": "instance_reuse", "synthetic": "false", **_CRITICAL},
        "isolation broken (instance_reuse)",
        lambda n, service: (
            f"State of one user reached, or could reach, another user's request: instance_reuse in {service}, "
            f"about {n} requests in the last 10s. Both sides of each are in the collector's evidence. Roll back first, then read it."
        ),
        silent=[
            {"kind": "instance_reuse", "grade": "hygiene", "synthetic": "false"},
            {"kind": "wrong_socket", "grade": "crossed", "synthetic": "false"},
            {"kind": "id_resolution", "grade": "crossed", "synthetic": "false"},
        ],
    ),
    GrowthCase(
        "IsolationViolation",
        _VIOLATIONS,
        {"kind": "inherited_context", "grade": "crossed", "synthetic": "true", "arm": "on"},
        {"kind": "inherited_context", "synthetic": "true", **_CRITICAL},
        "isolation broken (inherited_context)",
        lambda n, service: (
            f"State of one user reached, or could reach, another user's request: inherited_context in {service}, "
            f"about {n} requests in the last 10s. Both sides of each are in the collector's evidence. Roll back first, then read it."
        ),
    ),
    GrowthCase(
        "WebSocketIsolationViolation",
        _VIOLATIONS,
        {"kind": "wrong_socket", "grade": "crossed", "synthetic": "false"},
        {"kind": "wrong_socket", "synthetic": "false", **_CRITICAL},
        "events of one user were sent to another user's WebSocket",
        lambda n, service: (
            f"About {n} events in the last 10s left {service} on the connection of a user who does not own them. "
            "Foreign data has been shown. Roll back first; the evidence names both users' hashes and connections."
        ),
        silent=[{"kind": "instance_reuse", "grade": "crossed", "synthetic": "false"}],
    ),
    GrowthCase(
        "IsolationScoreBelow100",
        "isolation_requests_total",
        {"verdict": "violated", "exposed": "true", "transport": "http", "arm": "none"},
        _CRITICAL,
        "the isolation score is below 100",
        lambda n, service: (
            f"About {n} requests of the last 10s in {service} were violated while requests of other users could reach them. "
            "This alert counts requests; it does not read the rounded score."
        ),
        silent=[
            {"verdict": "isolated", "exposed": "true"},
            {"verdict": "violated", "exposed": "false"},
            {"verdict": "unverified", "exposed": "true"},
        ],
    ),
    GrowthCase(
        "RunIncomplete",
        _VIOLATIONS,
        {"kind": "incomplete_run", "grade": "hygiene", "synthetic": "false"},
        {"kind": "incomplete_run", "synthetic": "false", "severity": "error", **_PAGE},
        "runs end without the events they owe their users",
        lambda n, service: (
            f"About {n} runs of the last 10s in {service} ended, or their task died, before every event had left. "
            "Each is a user who watches a run that never finishes."
        ),
        silent=[{"kind": "session_leak", "grade": "hygiene", "synthetic": "false"}],
    ),
    GrowthCase(
        "SessionLeak",
        _VIOLATIONS,
        {"kind": "session_leak", "grade": "hygiene", "synthetic": "false"},
        {"kind": "session_leak", "synthetic": "false", "severity": "error", "rollback": "true", **_PAGE},
        "database sessions stay out after their request",
        lambda n, service: (
            f"About {n} database connections of {service} were not given back in the last 10s, after their request and the grace time. "
            "When the pool is empty every user's request hangs."
        ),
        silent=[{"kind": "incomplete_run", "grade": "hygiene", "synthetic": "false"}],
    ),
    GrowthCase(
        "ContainmentBelow100",
        "isolation_failures_total",
        {"outcome": "escaped", "arm": "none"},
        {"severity": "error", **_PAGE},
        "one user's failure reaches other users",
        lambda n, service: (
            f"About {n} requests of {service} failed in the last 10s because a request of another user failed, "
            "held what they needed, or made them wait. This alert counts failures; it does not read the rounded rate."
        ),
        silent=[{"outcome": "contained", "arm": "none"}, {"outcome": "common_cause", "arm": "none"}],
    ),
    GrowthCase(
        "Cascade",
        "isolation_cascades_total",
        {},
        {"trigger": "cascade", **_CRITICAL},
        "a failure spreads from user to user",
        lambda n, service: (
            f"About {n} failures of {service} in the last 10s each drew in the requests of two other users or more, "
            "through something that these requests share. It goes on spreading as long as that is shared."
        ),
    ),
    GrowthCase(
        "LoopStall",
        _VIOLATIONS,
        {"kind": "loop_stall", "grade": "hygiene", "synthetic": "false"},
        {"kind": "loop_stall", "synthetic": "false", "severity": "warning", "action": "ticket"},
        "one request stops the event loop for all",
        lambda n, service: (
            f"The event loop of {service} stood still about {n} times in the last 10s, "
            "while users were served. Each of them waited as long. The evidence names the request and the line that held the loop."
        ),
        silent=[{"kind": "resource_trend", "grade": "hygiene", "synthetic": "false"}],
    ),
    GrowthCase(
        "ResourceTrend",
        _VIOLATIONS,
        {"kind": "resource_trend", "grade": "hygiene", "synthetic": "false"},
        {"kind": "resource_trend", "synthetic": "false", "severity": "warning", "action": "ticket"},
        "memory, files, threads or tasks grow steadily",
        lambda n, service: (
            f"About {n} resources of workers of {service} were found to grow without a pause, in the last 10s. "
            "When one of them is used up, the requests of all users in that worker fail. The evidence names it and its growth in an hour."
        ),
        silent=[{"kind": "loop_stall", "grade": "hygiene", "synthetic": "false"}],
    ),
    GrowthCase(
        "SingletonReuse",
        "isolation_instance_shared_total",
        {"component": "agent"},
        {"component": "agent", "severity": "error", "action": "ticket"},
        "agent is shared between requests",
        lambda n, service: (
            f"About {n} instances of agent in the last 10s were given to a second request, "
            "though its factory is declared to make a fresh one for each. Requests of different users page by IsolationViolation."
        ),
    ),
    GrowthCase(
        "IsolationTelemetryDropping",
        "isolation_monitor_dropped_total",
        {"reason": "queue_full"},
        {"reason": "queue_full", "severity": "warning", "action": "ticket"},
        "the monitor drops data (queue_full)",
        lambda n, service: (
            f"About {n} records, series or labels of {service} were dropped in the last 1m: queue_full. "
            "Counts and pages stay right; evidence of violations may be missing."
        ),
        silent=[{"reason": "rate_limited"}],
        window_s=60,
        keep_s=300,
    ),
    GrowthCase(
        "RunsOutOfOrder",
        "isolation_run_verdicts_total",
        {"verdict": "disorder", "arm": "none"},
        {"severity": "warning", "action": "ticket"},
        "runs tell their story in the wrong order, or twice",
        lambda n, service: (
            f"About {n} runs of the last 10s in {service} sent all of their events, but not in order, or an end or start twice. "
            "Their users saw a tool end before it began, or an answer go on after its end."
        ),
        silent=[{"verdict": "complete_in_order"}, {"verdict": "no_end"}, {"verdict": "undeliverable"}],
    ),
    GrowthCase(
        "WebSocketUserContextBad",
        _VIOLATIONS,
        {"kind": "bad_handshake", "grade": "hygiene", "synthetic": "false"},
        {"synthetic": "false", "severity": "error", **_PAGE},
        "WebSockets are let in for nobody, or for somebody else than they say",
        lambda n, service: (
            f"About {n} connections of the last 10s in {service} have no user where others have one, another user than their handshake "
            "carried, or another user's connection id. What is sent on them may reach a stranger, or nobody."
        ),
        silent=[{"kind": "wrong_socket", "grade": "crossed", "synthetic": "false"}],
    ),
    GrowthCase(
        "EventsUnrouted",
        "isolation_events_unrouted_total",
        {"reason": "no_connection"},
        {"severity": "warning", "action": "ticket"},
        "runs emit events for users who have no connection",
        lambda n, service: (
            f"About {n} events of the last 10s in {service} had nowhere to go: their run was started for a user without a connection, "
            "and no answer carries it. The work is done and nobody sees it."
        ),
        silent=[{"reason": "unknown_run"}],
    ),
    GrowthCase(
        "IsolationMonitorErrors",
        "isolation_monitor_errors_total",
        {"hook": "sqlalchemy"},
        {"hook": "sqlalchemy", "severity": "error", "action": "ticket"},
        "the monitor fails inside (sqlalchemy)",
        lambda n, service: (
            f"About {n} errors in the monitor's sqlalchemy hook in {service} in the last 1m. "
            "Users notice nothing; requests during them were not checked there."
        ),
        window_s=60,
        keep_s=300,
    ),
    GrowthCase(
        "IsolationDetectorSilent",
        "isolation_checks_total",
        {"detector": "wrong_socket", "result": "error"},
        {"detector": "wrong_socket", "severity": "error", **_PAGE},
        "detector wrong_socket sees nothing",
        lambda n, service: (
            f"Detector wrong_socket of {service} has stopped checking while there is work for it, or its checks fail: "
            f"about {n} chances to look went by unseen in up to 5m. Faults of that kind would stay hidden."
        ),
        silent=[{"detector": "wrong_socket", "result": "pass"}, {"detector": "wrong_socket", "result": "skipped"}],
        window_s=60,
        keep_s=300,
    ),
]

GROWTH_SCENARIOS = [case.scenario() for case in GROWTH_CASES]
