"""Which rules can yield a sample from given input series: the others cost promtool time at each step and change nothing.

A rule that reads only what is not there is empty at every moment, so that a run without it is the same run. Whatever is not plainly
empty is kept: a function that makes a value of nothing (`absent`, `vector`, `time`), and each recorded series of a rule that is kept,
whatever its labels.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import promql_parser as promql
import yaml

Labels: TypeAlias = Mapping[str, str]
Alive: TypeAlias = Mapping[str, "list[Labels] | None"]
"""By name of a series, the label sets that it has; None: any."""

_FROM_NOTHING: Final = frozenset({"absent", "absent_over_time", "scalar", "vector", "time", "pi"})
_OF_PROMETHEUS: Final = {"ALERTS": None, "ALERTS_FOR_STATE": None}


def write_live_rules(rule_files: Iterable[Path], inputs: Iterable[str], folder: Path) -> list[Path]:
    """Write the rules that can yield a sample from the input series, in files and groups of the same names; return those files."""
    trees = {file: _tree(file) for file in rule_files}
    every = [rule for tree in trees.values() for group in tree["groups"] for rule in group["rules"]]
    kept = {id(rule) for rule in live_rules(every, inputs)}
    written = []
    for file, tree in trees.items():
        groups = [group | {"rules": rules} for group in tree["groups"] if (rules := [rule for rule in group["rules"] if id(rule) in kept])]
        if groups:
            written.append(folder / f"live-{file.name}")
            # JSON is YAML, and written much faster.
            written[-1].write_text(json.dumps({"groups": groups}))
    return written


def live_rules(rules: Iterable[dict[str, Any]], inputs: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rules that may have a sample at some moment, when `inputs` (`name{label="value"}`) is all there is besides."""
    alive: dict[str, list[Labels] | None] = {**_OF_PROMETHEUS}
    for text in inputs:
        name, _, labels = text.partition("{")
        known = alive.setdefault(name, [])
        if known is not None:
            known.append(dict(re.findall(r'(\w+)="([^"]*)"', labels)))
    waiting, found = list(rules), []
    while ready := [rule for rule in waiting if can_yield(_parsed(rule["expr"]), alive)]:
        found += ready
        waiting = [rule for rule in waiting if rule not in ready]
        alive |= {rule["record"]: None for rule in ready if "record" in rule}
    return found


def can_yield(node: object, alive: Alive) -> bool:
    """Tell whether an expression may have a value while only these series have samples."""
    match node:
        case promql.VectorSelector():
            return _matches(node, alive)
        case promql.MatrixSelector():
            return _matches(node.vector_selector, alive)
        case promql.BinaryExpr():
            sides = can_yield(node.lhs, alive), can_yield(node.rhs, alive)
            operator = str(node.op)
            if operator == "or":
                return any(sides)
            return sides[0] if operator == "unless" else all(sides)
        case promql.Call():
            # A function without arguments is one of the time of the evaluation.
            return node.func.name in _FROM_NOTHING or all(can_yield(argument, alive) for argument in node.args)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return can_yield(node.expr, alive)
        case promql.NumberLiteral() | promql.StringLiteral():
            return True
        case _:
            raise TypeError(f"a PromQL node that this walk does not know: {type(node).__name__}")


def _matches(selector: promql.VectorSelector, alive: Alive) -> bool:
    if selector.name is None:
        return True
    series = alive.get(str(selector.name), [])
    return series is None or any(_has(labels, selector) for labels in series)


def _has(labels: Labels, selector: promql.VectorSelector) -> bool:
    for matcher in selector.matchers.matchers:
        value = labels.get(matcher.name, "")
        same = matcher.value == value
        if matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe):
            same = re.fullmatch(matcher.value, value) is not None
        if same != (matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re)):
            return False
    return True


@functools.cache
def _tree(file: Path) -> dict[str, Any]:
    return dict(yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader))


@functools.cache
def _parsed(expression: str) -> object:
    return promql.parse(expression)
