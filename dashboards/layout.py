"""A dashboard from rows of panels: the grid, the variables, the annotations and the links that all of ours share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.panels import DATASOURCE, Panel

COLUMNS: Final = 24
DATASOURCE_UID: Final = "isolation-prometheus"
"""Uid of the provisioned data source; dashboards reach it by the variable `datasource`."""
DATASOURCE_NAME: Final = "Isolation Prometheus"
SCHEMA_VERSION: Final = 42
REFRESH: Final = "10s"
TAG: Final = "isolation-monitor"

OVERVIEW_UID: Final = "isolation-overview"
DELIVERY_UID: Final = "event-delivery"
CONTAINMENT_UID: Final = "containment"
SESSIONS_UID: Final = "sessions"
FACTORIES_UID: Final = "factories"
PROCESS_UID: Final = "process"
RUNS_UID: Final = "runs"
CONNECTIONS_UID: Final = "connections"
RESOLUTION_UID: Final = "resolution"
EXPERIENCE_UID: Final = "experience"
FLAGS_UID: Final = "flags"
ROLLOUT_UID: Final = "rollout"
CONTAINERS_UID: Final = "containers"
HEALTH_UID: Final = "monitor-health"
CI_UID: Final = "ci-health"
TITLES: Final[dict[str, str]] = {
    OVERVIEW_UID: "Isolation overview",
    DELIVERY_UID: "Event delivery",
    RUNS_UID: "Runs",
    CONNECTIONS_UID: "Connections",
    RESOLUTION_UID: "Run ids",
    CONTAINMENT_UID: "Containment",
    SESSIONS_UID: "Database sessions",
    FACTORIES_UID: "Instances",
    PROCESS_UID: "Process",
    EXPERIENCE_UID: "Users' experience",
    FLAGS_UID: "Flags",
    ROLLOUT_UID: "Rollout",
    CONTAINERS_UID: "Containers",
    HEALTH_UID: "Monitor health",
    CI_UID: "Tests in CI",
}
"""Every dashboard, in the order of the links; each links all the others."""


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row. Collapsed rows show their panels only when opened."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


def dashboard(
    *,
    uid: str,
    description: str,
    rows: Sequence[Row],
    links: Links,
    marks: Sequence[builders.AnnotationQuery] = (),
    variables: Sequence[builders.QueryVariable] = (),
) -> models.Dashboard:
    """Return a dashboard. Its links to the others keep the time range and the chosen service; `marks` and `variables` are its own."""
    built = (
        builders.Dashboard(TITLES[uid])
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .timezone("browser")
        .time("now-30m", "now")
        .refresh(REFRESH)
        .variables([_datasource(), _service(), _instance(), *variables])
        .annotations([_violations(), _alerts(), *marks])
        .links(
            [
                *(_sibling(other, title) for other, title in TITLES.items() if other != uid),
                _outside("Runbooks", f"{links.runbooks}/runbooks"),
            ]
        )
    ).build()
    built.panels = _placed(rows, links)
    return built


def _placed(rows: Sequence[Row], links: Links) -> list[models.Panel | models.RowPanel]:
    """Put the panels on the grid, left to right, a new line where one does not fit; ids count from 1."""
    found: list[models.Panel | models.RowPanel] = []
    y = number = 0
    for row in rows:
        number += 1
        head = models.RowPanel(title=row.title, collapsed=row.collapsed, grid_pos=models.GridPos(x=0, y=y, w=COLUMNS, h=1), id_val=number)
        found.append(head)
        y += 1
        inside: list[models.Panel] = []
        x = line_height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, line_height = 0, y + line_height, 0
            number += 1
            panel.model.grid_pos = models.GridPos(x=x, y=y, w=panel.width, h=panel.height)
            panel.model.id_val = number
            panel.model.links = [_runbook(alert, links).build() for alert in panel.alerts]
            inside.append(panel.model)
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
        if row.collapsed:
            head.panels = inside
        else:
            found.extend(inside)
    return found


def _datasource() -> builders.DatasourceVariable:
    return (
        builders.DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .current(models.VariableOption(text=DATASOURCE_NAME, value=DATASOURCE_UID, selected=True))
    )


def _service() -> builders.QueryVariable:
    return _query_variable("service", "Service", queries.SERVICES, queries.EVERY_SERVICE)


def _instance() -> builders.QueryVariable:
    return _query_variable("instance", "Instance", queries.INSTANCES, ".*")


def chosen(name: str, label: str, query: str) -> builders.QueryVariable:
    """Return a variable of one dashboard, by the label of that name; all of its values are chosen at first."""
    return _query_variable(name, label, query, ".*")


def _query_variable(name: str, label: str, query: str, every: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .query(query)
        .definition(query)
        .datasource(DATASOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(every)
        .current(models.VariableOption(text="All", value="$__all", selected=True))
    )


def decisions(expr: str) -> builders.AnnotationQuery:
    """Return marks where a gate's verdict changed, by the metrics alone."""
    return _marks("Verdicts", expr, "{{rollout}}", "the gate's verdict changed", "service,rollout", "blue")


def told() -> builders.AnnotationQuery:
    """Return the marks that the collector makes in Grafana itself: stages, rollbacks, bursts of violations, with their reasons."""
    return (
        builders.AnnotationQuery()
        .name("Rollouts")
        .datasource(common.DataSourceRef(type_val="grafana", uid="-- Grafana --"))
        .enable(True)
        .icon_color("purple")
        # The SDK asks for a query here; Grafana's own data source takes tags instead.
        .target(builders.AnnotationTarget().limit(100).match_any(False).tags(["isolation"]).type("tags"))  # type: ignore[arg-type]
    )


def _violations() -> builders.AnnotationQuery:
    return _marks("Violations", queries.violation_marks(), "{{service}}: {{kind}}", "isolation broken", "service,kind", "red")


def _alerts() -> builders.AnnotationQuery:
    return _marks("Alerts", queries.alert_marks(), "{{alertname}}", "{{service}}, {{severity}}", "service,severity", "orange")


def _marks(name: str, expr: str, title: str, text: str, tags: str, color: str) -> builders.AnnotationQuery:
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expr)
        .title_format(title)
        .text_format(text)
        .tag_keys(tags)
    )


def _sibling(uid: str, title: str) -> builders.DashboardLink:
    return (
        builders.DashboardLink(title)
        .type(models.DashboardLinkType.LINK)
        .icon("dashboard")
        .url(f"/d/{uid}")
        .keep_time(True)
        .include_vars(True)
    )


def _outside(title: str, url: str) -> builders.DashboardLink:
    return builders.DashboardLink(title).type(models.DashboardLinkType.LINK).icon("external link").url(url).target_blank(True)


def _runbook(alert: str, links: Links) -> builders.DashboardLink:
    return builders.DashboardLink(f"Runbook {alert}").type(models.DashboardLinkType.LINK).url(links.runbook(alert)).target_blank(True)


__all__ = [
    "CI_UID",
    "COLUMNS",
    "CONNECTIONS_UID",
    "CONTAINMENT_UID",
    "DATASOURCE_NAME",
    "DATASOURCE_UID",
    "DELIVERY_UID",
    "EXPERIENCE_UID",
    "FACTORIES_UID",
    "HEALTH_UID",
    "OVERVIEW_UID",
    "PROCESS_UID",
    "ROLLOUT_UID",
    "RUNS_UID",
    "SCHEMA_VERSION",
    "SESSIONS_UID",
    "TITLES",
    "Row",
    "dashboard",
]
