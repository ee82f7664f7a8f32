"""The first row of `isolation-overview`: is anyone seeing another's data, and would we know?"""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import (
    GREEN,
    GREY,
    NEUTRAL,
    NONE_ALLOWED,
    ORANGE,
    RED,
    YELLOW,
    Column,
    Panel,
    Query,
    Words,
    bad_from,
    good_from,
    listing,
    milliseconds,
    none_allowed,
    tile,
)
from isolation_monitor.telemetry import names

FULL_SCORE: Final = 100
"""A score below this is critical, however little: the display rounds down."""

_ANSWERS: Final = {0: Words("no", GREEN), 1: Words("nothing could leak", GREY), 2: Words("BLIND", RED)}


def row(t: Thresholds) -> Row:
    """Answers first, then what is firing and the public numbers."""
    tiles = [crossed(), reachable(), score_now(), blind(), coverage(t), exposure(t)]
    return Row("Is anyone seeing another's data, and would we know?", [*tiles, pages(), firing_alerts(), public_numbers(t)])


def crossed() -> Panel:
    return none_allowed(
        "Foreign data left the service",
        queries.violations_of_grade("crossed"),
        no_value="blind",
        description=(
            "Violations in the chosen time whose data reached another user. 0 is the only good number. Above it: roll back first, then "
            "open the evidence of each in the collector."
        ),
        alerts=["IsolationViolation", "WebSocketIsolationViolation"],
    )


def reachable() -> Panel:
    return none_allowed(
        "Could have crossed",
        queries.violations_of_grade("reachable"),
        no_value="blind",
        description=(
            "Violations in the chosen time in which state of one user was within reach of another's request. 0 is good. Above it: "
            "treat it as a leak that nobody has proven yet; the evidence names both requests and what they shared."
        ),
        alerts=["IsolationViolation"],
    )


def score_now() -> Panel:
    return tile(
        "Isolation score",
        Query(queries.lowest_score()),
        unit="percent",
        decimals=2,
        steps=good_from((FULL_SCORE, GREEN)),
        no_value="not measurable",
        trend=True,
        description=(
            "Share of the exposed requests of the last minute that were isolated, lowest of the chosen services, rounded down. 100 is "
            "good. Not measurable means that no request could have been violated, or that we are blind: see the tile beside it. It speaks "
            "only for detectors that see their planted faults: a grey one is listed on the dashboard Monitor health, and pages."
        ),
        alerts=["IsolationScoreBelow100", "IsolationDetectorGrey"],
    )


def blind() -> Panel:
    return tile(
        "Are we blind?",
        Query(queries.blindness()),
        unit="none",
        steps=bad_from((2, RED)),
        words=_ANSWERS,
        no_value="BLIND",
        description=(
            "No is good. Nothing could leak: no two users overlapped, so no score exists. Blind: a target does not answer or nothing "
            "is checked, so a green score would mean nothing. Look at the dashboard Monitor health."
        ),
        alerts=["IsolationTargetDown", "IsolationChecksSilent"],
    )


def coverage(t: Thresholds) -> Panel:
    window = t.blindness.coverage_window
    return tile(
        "Coverage",
        Query(queries.coverage(window)),
        unit="percentunit",
        decimals=1,
        steps=good_from((1 - t.blindness.max_unverified_ratio, GREEN)),
        no_value="no requests",
        trend=True,
        description=(
            f"Share of the requests of the last {window} that could be judged, of the least covered service. High is good; the rest had "
            "no known user or missed a check, and is never counted as isolated. Low: declare the principal extractor, or log in."
        ),
        alerts=["IsolationCoverageLow"],
    )


def exposure(t: Thresholds) -> Panel:
    window = t.blindness.coverage_window
    return tile(
        "Exposure",
        Query(queries.exposure(window)),
        unit="percentunit",
        decimals=1,
        steps=NEUTRAL,
        no_value="no requests",
        trend=True,
        description=(
            f"Share of the requests of the last {window} that overlapped another user's or reused something of it: the part that could "
            "have been violated. Neither good nor bad; near zero, the score proves little."
        ),
    )


def pages() -> Panel:
    return none_allowed(
        "Pages firing",
        queries.pages_firing(),
        no_value="rules are dead",
        height=8,
        description=(
            "Alerts that wake someone, firing now. 0 is good. No number at all means that not even the dead man's switch fires: "
            "Prometheus evaluates no rules and nobody would be paged."
        ),
        alerts=["DeadMansSwitch"],
    )


def firing_alerts() -> Panel:
    return listing(
        "Firing alerts",
        Column("Alert", "alertname", width=210),
        Column("Severity", "severity", width=75),
        Column("Action", "action", width=65),
        Column("Service", "service"),
        rows=queries.alerts_firing(),
        width=8,
        height=8,
        no_value="rules are dead",
        description=(
            "What is firing now. DeadMansSwitch alone is good: it always fires, to prove that rules run. For each other one, open its "
            "runbook from the alert or from the panel that names it."
        ),
        alerts=["DeadMansSwitch"],
    )


def public_numbers(t: Thresholds) -> Panel:
    expr = queries.public_numbers()
    delivery = t.delivery
    return listing(
        "The public numbers by service",
        Column("Service", "service"),
        Column("Score", expr=expr[names.ISOLATION_SCORE], steps=good_from((FULL_SCORE, GREEN)), unit="percent", decimals=2),
        Column(
            "Containment",
            expr=expr[names.FAILURE_CONTAINMENT_RATE],
            steps=good_from((FULL_SCORE, GREEN)),
            unit="percent",
            decimals=2,
        ),
        Column(
            "Creation p95",
            expr=expr[names.INSTANCE_CREATION_TIME_MS],
            unit="ms",
            decimals=1,
            steps=bad_from((milliseconds(t.creation.max_creation_s), YELLOW)),
        ),
        Column(
            "Delivery",
            expr=expr[names.EVENT_DELIVERY_RATE],
            steps=good_from((delivery.rollback_below_percent, ORANGE), (delivery.page_below_percent, GREEN)),
            unit="percent",
            decimals=2,
        ),
        Column("Wrong sockets", expr=expr[names.WEBSOCKET_ISOLATION_VIOLATIONS], steps=NONE_ALLOWED, decimals=0),
        Column("Leaked sessions", expr=expr[names.SESSION_LEAK_COUNT], steps=NONE_ALLOWED, decimals=0),
        width=12,
        height=8,
        description=(
            "The recorded series that gates and scripts read, by service. Good: 100, 100, below the creation budget, 100, 0, 0. The "
            "last two count since the service started. An empty cell: nothing happened that could be measured."
        ),
    )
