"""Which metrics and labels an expression reads, by a real PromQL parse (promql-parser, a development dependency)."""

from __future__ import annotations

from collections import defaultdict

import promql_parser as promql

PROMETHEUS_LABELS = frozenset({"instance", "job"})
"""Labels that Prometheus adds to every scraped series."""


def series_of(expression: str) -> dict[str, set[str]]:
    """Return the labels that an expression names on each metric: by matchers, and by the aggregations and joins above it.

    Raises:
        ValueError: the expression is no PromQL.
    """
    found: dict[str, set[str]] = defaultdict(set)
    _visit(promql.parse(expression), frozenset(), found)
    return dict(found)


def _visit(node: object, wanted: frozenset[str], found: dict[str, set[str]]) -> None:
    match node:
        case promql.VectorSelector():
            matchers = {matcher.name for matcher in node.matchers.matchers}
            found[str(node.name)] |= (wanted | matchers) - PROMETHEUS_LABELS - {"__name__"}
        case promql.MatrixSelector():
            _visit(node.vector_selector, wanted, found)
        case promql.AggregateExpr():
            by = node.modifier
            # An aggregation makes new labels: only its own `by` reaches the series below it.
            _visit(node.expr, frozenset(by.labels) if by is not None and by.type == promql.AggModifierType.By else wanted, found)
        case promql.BinaryExpr():
            on = node.modifier.matching if node.modifier is not None else None
            joined = wanted | frozenset(on.labels if on is not None else ())
            _visit(node.lhs, joined, found)
            _visit(node.rhs, joined, found)
        case promql.Call():
            if node.func.name == "label_replace":
                # The label that the call itself makes is not asked of the series.
                wanted -= {str(node.args[1].val)}
            for argument in node.args:
                _visit(argument, wanted, found)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            _visit(node.expr, wanted, found)
        case promql.NumberLiteral() | promql.StringLiteral():
            pass
        case _:
            raise TypeError(f"a PromQL node that this walk does not know: {type(node).__name__}")
