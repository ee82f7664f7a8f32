"""The committed dashboards, and walks over their panels, queries and selectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import promql_parser as promql

from isolation_monitor.dashboards.build import GENERATED
from isolation_monitor.dashboards.preview.prometheus import Window, fill

UIDS = (
    "isolation-overview",
    "event-delivery",
    "runs",
    "connections",
    "resolution",
    "containment",
    "sessions",
    "factories",
    "process",
    "experience",
    "flags",
    "rollout",
    "containers",
    "monitor-health",
    "ci-health",
)
WINDOW = Window(0.0, 1800.0, 15.0)


def board(uid: str) -> dict[str, Any]:
    return dict(json.loads((GENERATED / f"{uid}.json").read_text(encoding="utf-8")))


def boards() -> list[dict[str, Any]]:
    return [board(uid) for uid in UIDS]


def panels(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel that shows data, those of collapsed rows too."""
    for item in tree["panels"]:
        if item["type"] == "row":
            yield from item["panels"]
        else:
            yield item


def expressions(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(where, PromQL) of every panel's queries and of the annotations."""
    for panel in panels(tree):
        for target in panel["targets"]:
            yield f"{tree['uid']} / {panel['title']} / {target['refId']}", target["expr"]
    for annotation in tree["annotations"]["list"]:
        if "expr" not in annotation:
            # Marks that Grafana keeps itself have tags instead of a query.
            continue
        yield f"{tree['uid']} / annotation {annotation['name']}", annotation["expr"]


def filled(expr: str) -> str:
    """The expression with Grafana's variables replaced by values that parse."""
    return fill(expr, WINDOW, {"service": "chosen_service", "instance": "chosen_instance", "rollout": "chosen_rollout"})


def walk(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every node of a parsed expression with the nodes above it, outermost first."""
    yield node, above
    below: list[Any] = []
    match node:
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            below = [node.expr]
        case promql.BinaryExpr():
            below = [node.lhs, node.rhs]
        case promql.Call():
            below = list(node.args)
        case promql.MatrixSelector():
            below = [node.vector_selector]
    for child in below:
        yield from walk(child, (*above, node))


def selectors(expr: str) -> Iterator[tuple[str, dict[str, str], tuple[Any, ...]]]:
    """(metric, matchers by label, nodes above) of each selector of an expression with Grafana's variables."""
    for node, above in walk(promql.parse(filled(expr))):
        if isinstance(node, promql.VectorSelector):
            yield str(node.name), {matcher.name: matcher.value for matcher in node.matchers.matchers}, above
