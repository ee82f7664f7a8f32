"""The dashboard `experience`: are promises to users kept, what breaks them, and what is each endpoint like?

The promises are those of the SLO file; the numbers of endpoints are of `http_server_request_duration_seconds`, the
monitor's own or, where the application measures its requests itself, the application's.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts import slo
from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.slo import Slos
from isolation_monitor.alerts.thresholds import Duration, Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import EXPERIENCE_UID, Row, dashboard
from isolation_monitor.dashboards.panels import (
    GREEN,
    NEUTRAL,
    ORANGE,
    RED,
    Column,
    Panel,
    Query,
    bad_from,
    counts,
    good_from,
    graph,
    listing,
    tile,
)
from isolation_monitor.telemetry import names

LOW_BUDGET: Final = 0.25
"""With less of a budget left, be careful. No alert of its own: the burn rates have them."""
SPENT: Final = 0.0001
"""From here on something is left: a hundredth of a percent."""
_QUANTILES: Final = ((0.5, "half of all"), (0.95, "slowest 5 %"), (0.99, "slowest 1 %"))
_ALL: Final = ("SloBurnsFast", "SloBurnsSlowly", "SloBudgetSpent")


def build(_: Thresholds, links: Links) -> models.Dashboard:
    """Are promises to users kept? What breaks them? What is each endpoint like, and how long do users wait for a run?"""
    slos = slo.load()
    return dashboard(
        uid=EXPERIENCE_UID,
        description="Are promises to users kept, what breaks them, and what is each endpoint like?",
        links=links,
        rows=[
            Row(
                "Are promises kept?",
                [
                    least_budget(slos),
                    *(fastest_burn(slos, window) for window in _long(slos)),
                    errors_now(),
                    answers_now(),
                    first_event_now(),
                ],
            ),
            Row("Promises", [promises(slos), bad_events(), budget_left(slos), burns(slos)]),
            Row("By endpoint", [rate(), errors(), *(latency(q, words) for q, words in _QUANTILES), statuses()]),
            Row("Runs and connections", [first_event(), run_ends(), handshakes()]),
        ],
    )


def _long(slos: Slos) -> list[Duration]:
    return [alert.long for alert in slos.burns("page")]


# --- are promises kept ------------------------------------------------------------------------------------------------


def least_budget(slos: Slos) -> Panel:
    return tile(
        "Error budget left",
        Query(queries.least_budget_left(slos)),
        unit="percentunit",
        decimals=1,
        steps=good_from((SPENT, ORANGE), (LOW_BUDGET, GREEN)),
        no_value="no events",
        trend=True,
        alerts=["SloBudgetSpent"],
        description=(
            f"What is left of the least budget of all promises over {slos.window}. Much is good: it may be spent on changes. 0 is a broken "
            "promise: only repairs until it is back."
        ),
    )


def fastest_burn(slos: Slos, window: Duration) -> Panel:
    (alert,) = (alert for alert in slos.burns("page") if alert.long == window)
    return tile(
        f"Fastest burn, {window}",
        Query(queries.fastest_burn(window)),
        unit="none",
        decimals=1,
        steps=bad_from((alert.burn_rate(slos.window), RED)),
        no_value="no events",
        trend=True,
        alerts=["SloBurnsFast"],
        description=(
            f"How many times too fast the worst promise's budget goes, over {window}. Below 1 is good: the budget lasts. From "
            f"{alert.burn_rate(slos.window):g} on it pages; the row below names the promise and the source."
        ),
    )


def errors_now() -> Panel:
    return tile(
        "Requests that failed",
        Query(queries.error_share(queries.RANGE)),
        unit="percentunit",
        decimals=3,
        steps=NEUTRAL,
        no_value="no requests",
        description=(
            "Share of the requests of the chosen time that were answered with a status of 500 or more. 0 is good. Above it: see by "
            "endpoint below which of them."
        ),
    )


def answers_now() -> Panel:
    return tile(
        "Answers, slowest 5 %",
        Query(queries.quantile(0.95, names.HTTP_DURATION)),
        unit="s",
        steps=NEUTRAL,
        no_value="no requests",
        trend=True,
        description=(
            "95th percentile of all answers, those of models too. A steady number is good. Rising: see by endpoint below whether it is "
            "one or all; all share the event loop and the database pool."
        ),
    )


def first_event_now() -> Panel:
    return tile(
        "First event, slowest 5 %",
        Query(queries.quantile(0.95, names.RUN_FIRST_EVENT)),
        unit="s",
        steps=NEUTRAL,
        no_value="no runs",
        trend=True,
        description=(
            "95th percentile of the time from a run's start until its first event was sent. Far below a second is good: until then the "
            "user looks at an empty screen. Rising: something waits before the run begins to talk."
        ),
    )


# --- promises ---------------------------------------------------------------------------------------------------------


def promises(slos: Slos) -> Panel:
    texts = " ".join(f"{one.name}: {one.promise} ({one.objective_percent:g} % of events over {slos.window})" for one in slos.objectives)
    long = [(alert.long, alert.burn_rate(slos.window), RED if alert.action == "page" else ORANGE) for alert in slos.burn_alerts]
    return listing(
        "Promises, by service",
        Column("Service", "service"),
        Column("Promise", "slo"),
        Column(
            "Budget left",
            expr=queries.budget_left(slos),
            unit="percentunit",
            decimals=1,
            steps=good_from((SPENT, ORANGE), (LOW_BUDGET, GREEN)),
        ),
        *(
            Column(f"Burn {window}", expr=queries.burn(window), decimals=2, steps=bad_from((threshold, color)))
            for window, threshold, color in long
        ),
        width=24,
        alerts=_ALL,
        no_value="no events",
        description=(
            f"{texts} Burn rates below 1 are good: at 1 the budget lasts exactly as long as the window. Colours begin where alerts do."
        ),
    )


def bad_events() -> Panel:
    return counts(
        "Bad events, by promise and source",
        Query(queries.bad_events(), "{{service}} {{slo}}: {{source}}"),
        alerts=_ALL,
        description=(
            "Failed requests and runs, refused handshakes, and answers or first events that came too late. Zero is good. Above: the source "
            "says where to look, by endpoint or by run."
        ),
    )


def budget_left(slos: Slos) -> Panel:
    return graph(
        "Error budget left, over time",
        Query(queries.budget_left(slos), "{{service}} {{slo}}"),
        unit="percentunit",
        maximum=1,
        alerts=["SloBudgetSpent"],
        description=(
            f"What is left of each budget of {slos.window}; an overspent one shows as 0. A level line is good. A step down is an outage; "
            "it comes back when the outage is older than the window."
        ),
    )


def burns(slos: Slos) -> Panel:
    short, long = slos.burns("page")[0].short, slos.burns("page")[0].long
    return graph(
        "Burn rates",
        Query(queries.burn(short), f"{{{{service}}}} {{{{slo}}}}, {short}"),
        Query(queries.burn(long), f"{{{{service}}}} {{{{slo}}}}, {long}"),
        unit="none",
        no_value="no events",
        alerts=["SloBurnsFast", "SloBurnsSlowly"],
        description=(
            "How many times too fast each budget goes. Below 1 is good. The short window shows whether it goes on, the long one whether it "
            "matters; a page needs both."
        ),
    )


# --- by endpoint ------------------------------------------------------------------------------------------------------


def rate() -> Panel:
    return graph(
        "Requests, by endpoint",
        Query(
            queries.rate(names.HTTP_DURATION, "http_route", "http_request_method", suffix="_count"),
            "{{http_request_method}} {{http_route}}",
        ),
        unit="reqps",
        stacked=True,
        description=(
            "Traffic by route template; unmatched is every path that no route knows, other is what the limit of labels left together. A "
            "steady shape is good. An endpoint that falls silent may be failing before it is reached."
        ),
    )


def errors() -> Panel:
    return graph(
        "Error rate, by endpoint",
        Query(queries.error_share_by_route(), "{{http_route}}"),
        unit="percentunit",
        alerts=["SloBurnsFast", "SloBurnsSlowly"],
        description=(
            "Share of an endpoint's answers with a status of 500 or more. Zero is good. One endpoint: its own code. All of them: what they "
            "share, usually the database."
        ),
    )


def latency(q: float, words: str) -> Panel:
    return graph(
        f"Latency by endpoint, {words}",
        Query(queries.quantile(q, names.HTTP_DURATION, "http_route"), "{{http_route}}"),
        unit="s",
        no_value="no requests",
        alerts=["SloBurnsFast"] if q > 0.95 else (),
        description=(
            f"How long endpoints take to answer: {words}. A steady line is good. One endpoint up: its own work or its model. All up: "
            "compare with the stalls of the event loop and the wait for a database connection."
        ),
    )


def statuses() -> Panel:
    return graph(
        "Answers, by status",
        Query(queries.rate(names.HTTP_DURATION, "http_response_status_code", suffix="_count"), "{{http_response_status_code}}"),
        unit="reqps",
        stacked=True,
        description=(
            "All answers by status code. Mostly 200 is good. Many 401 or 403: a client lost its token. 429 or 503: the service refuses "
            "work; 5xx count against availability."
        ),
    )


# --- runs and connections ---------------------------------------------------------------------------------------------


def first_event() -> Panel:
    return graph(
        "Time to first event",
        *(Query(queries.quantile(q, names.RUN_FIRST_EVENT), words) for q, words in _QUANTILES),
        unit="s",
        no_value="no runs",
        alerts=["SloBurnsFast"],
        description=(
            "From a run's start until its first event was sent. Three steady lines are good. Only the top one rises: single users wait, "
            "for a lock or a pool. All rise: the agent does too much before it says that it began."
        ),
    )


def run_ends() -> Panel:
    return graph(
        "Runs that ended, by outcome",
        Query(queries.rate(names.RUNS, "outcome"), "{{outcome}}"),
        unit="ops",
        stacked=True,
        alerts=["SloBurnsFast"],
        description=(
            "Complete is good. Failed and incomplete count against availability; cancelled and abandoned runs were ended by their users "
            "and do not. Many abandoned: users give up waiting."
        ),
    )


def handshakes() -> Panel:
    return graph(
        "Connections asked for, by outcome",
        Query(queries.rate(names.WEBSOCKET_CONNECTIONS, "outcome"), "{{outcome}}"),
        unit="ops",
        stacked=True,
        alerts=["SloBurnsFast"],
        description=(
            "Accepted is good. Error counts against availability: the service was at fault. Refused does not: somebody may not enter; many "
            "at once mean that clients lost their tokens."
        ),
    )
