"""The collapsed row of `isolation-overview` on requests by route: rate, errors, duration."""

from __future__ import annotations

from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import (
    Panel,
    Query,
    graph,
)
from isolation_monitor.telemetry import names


def row() -> Row:
    """Rate, errors and duration of each route template."""
    return Row("Requests by route", [rate(), errors(), latency()], collapsed=True)


def rate() -> Panel:
    return graph(
        "Requests by route",
        Query(queries.rate(names.HTTP_DURATION, "http_route", suffix="_count"), "{{http_route}}"),
        unit="reqps",
        stacked=True,
        description=(
            "Traffic by route template; unmatched is every path that no route knows. A steady shape is good. A route that falls silent "
            "may be failing before it is reached."
        ),
    )


def errors() -> Panel:
    return graph(
        "Server errors by route",
        Query(queries.error_share_by_route(), "{{http_route}}"),
        unit="percentunit",
        description=(
            "Share of a route's answers with a status of 500 or more. Zero is good. One route: its own code. All routes: what they "
            "share, usually the database pool."
        ),
    )


def latency() -> Panel:
    return graph(
        "Latency by route, slowest 5 %",
        Query(queries.quantile(0.95, names.HTTP_DURATION, "http_route"), "{{http_route}}"),
        unit="s",
        description=(
            "A steady line is good. One route up: open its slow requests. All routes up: compare with the wait for a database connection."
        ),
    )
