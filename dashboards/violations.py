"""The row of `isolation-overview` on what was violated, when, and what the score was worth then."""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.answers import FULL_SCORE
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import GREEN, GREY, RED, YELLOW, Panel, Query, Words, bad_from, counts, good_from, graph, states
from isolation_monitor.telemetry import names

_STATES: Final = {0: Words("measured", GREEN), 1: Words("nothing could leak", GREY), 2: Words("BLIND", RED)}


def row(t: Thresholds) -> Row:
    """Violations by kind, the score, and the verdicts it is made of."""
    return Row("Violations", [scored_violations(), hygiene_violations(), score(), score_states(), verdicts(), verdict_shares(t)])


def scored_violations() -> Panel:
    return counts(
        "Isolation broken, by kind",
        Query(queries.scored_violations(), "{{kind}}"),
        alerts=["IsolationViolation", "WebSocketIsolationViolation"],
        description=(
            "Violations that lower the score, by kind. Each point counts the minute before it, or more when zoomed out. Zero is good. "
            "Above: the kind says which of our promises broke; roll back, then read the evidence of that minute."
        ),
    )


def hygiene_violations() -> Panel:
    return counts(
        "Hygiene violations, by kind",
        Query(queries.hygiene_violations(), "{{kind}}"),
        alerts=["SessionLeak", "RunIncomplete", "InstanceCreationSlow"],
        description=(
            "Leaks, slow creations and unfinished runs: nobody's data was exposed, but users wait or the pool runs dry. Zero is good. "
            "A steady line above it is a defect on a common path; start with its newest evidence."
        ),
    )


def score() -> Panel:
    return graph(
        "Isolation score",
        Query(queries.recorded(names.ISOLATION_SCORE), "{{service}}"),
        unit="percent",
        decimals=2,
        steps=good_from((FULL_SCORE, GREEN)),
        minimum=None,
        maximum=100,
        no_value="not measurable",
        alerts=["IsolationScoreBelow100"],
        description=(
            "The score by service. A flat line at 100 is good. A gap is not good: nothing was measured there, and the band beside says "
            "why. A dip: look for its kind in the graph of violations above."
        ),
    )


def score_states() -> Panel:
    return states(
        "Measured, or blind",
        Query(queries.score_states(), "{{service}}"),
        words=_STATES,
        alerts=["IsolationTargetDown", "IsolationChecksSilent"],
        description=(
            "What the score was worth at each moment. Measured is good; nothing could leak is honest; blind needs action: bring the "
            "targets back or find out why no checks run."
        ),
    )


def verdicts() -> Panel:
    return graph(
        "Requests judged, by verdict",
        Query(queries.requests_by_verdict(), "{{verdict}}"),
        unit="reqps",
        stacked=True,
        colors={"isolated": GREEN, "unverified": GREY, "violated": RED},
        description=(
            "HTTP requests and WebSocket messages, judged one by one. Nearly all isolated is good. Violated: see the kinds. "
            "Unverified: no user was known, or a required check did not run."
        ),
    )


def verdict_shares(t: Thresholds) -> Panel:
    return graph(
        "Share violated and unverified",
        Query(queries.verdict_share("violated"), "violated"),
        Query(queries.verdict_share("unverified"), "unverified"),
        unit="percentunit",
        steps=bad_from((t.blindness.max_unverified_ratio, YELLOW)),
        colors={"unverified": GREY, "violated": RED},
        alerts=["IsolationCoverageLow", "IsolationScoreBelow100"],
        description=(
            "Both rates of requests that were not proven isolated. Violated must stay at zero. Unverified is best near zero; the "
            "dashed line is the share from which coverage is too low to trust the score."
        ),
    )
