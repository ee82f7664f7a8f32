"""Flagger: how it reads the answer of a webhook and of a metric, and what one interval of its scheduler does.

Sources: `pkg/controller/webhook.go` (status above 202 is a failure; go-retryablehttp takes 5xx and 429 for retryable and
drops their body), `pkg/controller/scheduler.go` (order of the hooks), `pkg/metrics/providers/prometheus.go`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Step = Literal["rolled back", "failed check", "waits", "advances"]


class NoValuesFound(Exception):
    """Flagger counts it as a failed check."""


@dataclass(frozen=True)
class Called:
    """The end of one webhook call. `message` reaches the events of the canary."""

    ok: bool
    message: str = ""


def webhook(status: int, body: bytes) -> Called:
    """Return how Flagger reads one answer to a hook without `retries`."""
    if status == 429 or status >= 500:
        return Called(False, "giving up after 1 attempt(s)")
    return Called(True) if status <= 202 else Called(False, body.decode())


def payload(hook: Mapping[str, Any], name: str, namespace: str) -> dict[str, Any]:
    """Return the body that Flagger posts; metadata is text to text."""
    metadata = dict(hook.get("metadata", {}))
    assert all(isinstance(part, str) for pair in metadata.items() for part in pair), "metadata is map[string]string"
    return {"name": name, "namespace": namespace, "phase": "Progressing", "checksum": "5d8f", "metadata": metadata}


def metric_value(answer: bytes) -> float:
    """Return the value of an instant query: of several series the last one, without a word.

    Raises:
        NoValuesFound: no series, or NaN.
    """
    value = None
    for series in json.loads(answer)["data"]["result"]:
        value = float(series["value"][1])
    if value is None or math.isnan(value):
        raise NoValuesFound
    return value


def metric_passes(metric: Mapping[str, Any], value: float) -> bool:
    """Return whether a value is inside the threshold range."""
    limits = metric.get("thresholdRange")
    if limits is None:
        return value <= float(metric.get("threshold", 0))
    return value >= limits.get("min", -math.inf) and value <= limits.get("max", math.inf)


def render(template: str, functions: Mapping[str, str], variables: Mapping[str, str]) -> str:
    """Return a MetricTemplate's query with its functions filled in; an unknown one is an error."""

    def fill(found: re.Match[str]) -> str:
        name = found[1].strip()
        if name.startswith("variables."):
            return variables[name.removeprefix("variables.")]
        return functions[name]

    return re.sub(r"\{\{(.*?)\}\}", fill, template)


def interval(canary: Mapping[str, Any], answers: Mapping[str, Called], metrics: Sequence[bool], failed_checks: int = 0) -> Step:
    """Return what one interval does. `answers` are by hook type; `metrics` are the checks of the metrics."""
    kinds = {hook["type"] for hook in canary["spec"]["analysis"]["webhooks"]}
    if "rollback" in kinds and answers["rollback"].ok:
        return "rolled back"
    if failed_checks >= canary["spec"]["analysis"]["threshold"]:
        return "rolled back"
    if "rollout" in kinds and not answers["rollout"].ok:
        return "failed check"
    if not all(metrics):
        return "failed check"
    waiting = [kind for kind in ("confirm-traffic-increase", "confirm-promotion") if kind in kinds and not answers[kind].ok]
    return "waits" if waiting else "advances"
