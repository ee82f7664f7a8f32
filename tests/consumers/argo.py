"""Argo Rollouts: one measurement of its web and prometheus providers, and what a series of measurements decides.

Sources: `metricproviders/webmetric/webmetric.go`, `metricproviders/prometheus/prometheus.go`, `utils/evaluate/evaluate.go`,
`analysis/analysis.go`. `version` 1.9.1 stands for it and everything before; "main" is what follows (PR 4770).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Literal

from tests.consumers.expr import ExprError, condition

Phase = Literal["Successful", "Failed", "Inconclusive", "Error"]
Version = Literal["1.9.1", "main"]

DEFAULT_CONSECUTIVE_ERROR_LIMIT: Final = 4


def web(metric: dict[str, Any], status: int, body: bytes, version: Version = "1.9.1") -> Phase:
    """Return the phase of one measurement of the web provider."""
    if not 200 <= status < 300:
        return "Error"
    try:
        # Go's decoder takes no NaN, no infinity and no empty body.
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except ValueError:
        if version == "1.9.1":
            return "Successful"
        return evaluate(metric, body.decode("utf-8", "replace"))
    found, value = json_path(metric["provider"]["web"].get("jsonPath", "{$}"), data)
    return evaluate(metric, value) if found else "Error"


def prometheus(metric: dict[str, Any], samples: Sequence[float]) -> Phase:
    """Return the phase of one measurement of an instant vector: values alone, no labels."""
    return evaluate(metric, [float(sample) for sample in samples])


def evaluate(metric: dict[str, Any], result: Any) -> Phase:
    """Return the phase that the two conditions give; only one of them given, everything else is its opposite."""
    success, failure = metric.get("successCondition", ""), metric.get("failureCondition", "")
    try:
        succeeded = bool(success) and condition(success, result)
        failed = bool(failure) and condition(failure, result)
    except ExprError:
        return "Error"
    if not success and not failure:
        return "Successful"
    if not failure:
        failed = not succeeded
    elif not success:
        succeeded = not failed
    if failed:
        return "Failed"
    return "Successful" if succeeded else "Inconclusive"


def json_path(path: str, data: Any) -> tuple[bool, Any]:
    """Return whether the path exists, and its first result. Only `{$}` and member paths, which templates use."""
    inner = path.removeprefix("{").removesuffix("}").removeprefix("$")
    value = data
    for name in (part for part in inner.split(".") if part):
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def analysis(metric: dict[str, Any], phases: Sequence[Phase]) -> tuple[Phase | None, int]:
    """Return what a run of measurements comes to, and after how many; None while it still measures.

    The order is Argo's: failures, inconclusives, errors in a row, passes in a row, then `count`, which ends as a success.
    """
    failed = inconclusive = errors = passes = measured = 0
    for number, phase in enumerate(phases, start=1):
        failed += phase == "Failed"
        inconclusive += phase == "Inconclusive"
        errors = errors + 1 if phase == "Error" else 0
        passes = passes + 1 if phase == "Successful" else 0
        # Errors do not use up `count`.
        measured += phase != "Error"
        if failed > metric.get("failureLimit", 0):
            return "Failed", number
        if inconclusive > metric.get("inconclusiveLimit", 0):
            return "Inconclusive", number
        if errors > metric.get("consecutiveErrorLimit", DEFAULT_CONSECUTIVE_ERROR_LIMIT):
            return "Error", number
        needed = metric.get("consecutiveSuccessLimit", 0)
        if needed and passes >= needed:
            return "Successful", number
        if measured >= metric.get("count", 1):
            return ("Inconclusive" if needed else "Successful"), number
    return None, len(phases)


def _refuse(name: str) -> Any:
    raise ValueError(name)
