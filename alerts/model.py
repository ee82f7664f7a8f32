"""What a rule is, and how it becomes YAML. Every alert has a severity, an action, a service, a runbook and a dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

SERVICE = "{{ $labels.service }}"
COMPONENT = "{{ $labels.component }}"
NUMBER = '{{ $value | printf "%.0f" }}'
DURATION = "{{ $value | humanizeDuration }}"
SLO = "{{ $labels.slo }}"
TIMES = '{{ $value | printf "%.1f" }}'
PERCENT = '{{ $value | printf "%.2f" }}'
"""Pieces of alert texts, so that they read as sentences in Python too."""

Severity = Literal["critical", "error", "warning"]
Action = Literal["page", "ticket"]
Dashboard = Literal[
    "isolation-overview",
    "event-delivery",
    "containment",
    "sessions",
    "factories",
    "process",
    "runs",
    "connections",
    "resolution",
    "experience",
    "rollout",
    "flags",
    "containers",
    "monitor-health",
    "ci-health",
]


@dataclass(frozen=True, slots=True)
class Links:
    """Where runbooks and dashboards open: base URLs without a trailing slash. Without Grafana no dashboard is linked."""

    runbooks: str
    grafana: str | None

    def runbook(self, alert: str) -> str:
        return f"{self.runbooks}/runbooks/{alert}"

    def page(self, path: str) -> str:
        """Return the link of one of the collector's pages, which stand beside the runbooks."""
        return f"{self.runbooks}{path}"

    def dashboard(self, uid: Dashboard, one_service: bool) -> str | None:
        """Return the dashboard's link, at the alert's service unless the alert is about no service that is watched."""
        if self.grafana is None:
            return None
        service = "var-service={{ $labels.service | urlquery }}&" if one_service else ""
        return f"{self.grafana}/d/{uid}?{service}from=now-30m&to=now"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `labels` are those that its expression does not already carry; durations are Prometheus durations."""

    name: str
    expr: str
    severity: Severity
    action: Action
    summary: str
    description: str
    dashboard: Dashboard = "isolation-overview"
    rollback: bool = False
    for_: str | None = None
    keep_firing_for: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    page: str = ""
    """Path of the collector's page that has the who and what of it, where no metric can."""

    def as_rule(self, links: Links) -> dict[str, Any]:
        """Return the rule as Prometheus reads it."""
        dashboard = links.dashboard(self.dashboard, one_service="service" not in self.labels)
        return {
            "alert": self.name,
            "expr": _Block(self.expr),
            **({"for": self.for_} if self.for_ else {}),
            **({"keep_firing_for": self.keep_firing_for} if self.keep_firing_for else {}),
            "labels": {"severity": self.severity, "action": self.action, **({"rollback": "true"} if self.rollback else {}), **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": links.runbook(self.name),
                **({} if dashboard is None else {"dashboard_url": dashboard}),
                **({"page_url": links.page(self.page)} if self.page else {}),
            },
        }


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded series."""

    name: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)

    def as_rule(self, links: Links) -> dict[str, Any]:
        """Return the rule as Prometheus reads it; `links` is unused, a group treats all its rules alike."""
        return {"record": self.name, "expr": _Block(self.expr), **({"labels": dict(self.labels)} if self.labels else {})}


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated together, in order, once an interval."""

    name: str
    interval: str
    rules: Sequence[Alert | Recording]


def render(groups: Sequence[Group], links: Links, heading: str) -> str:
    """Return one rule file as text, with a comment line above."""
    tree = {
        "groups": [
            {"name": group.name, "interval": group.interval, "rules": [rule.as_rule(links) for rule in group.rules]} for group in groups
        ]
    }
    origin = "Written by `python -m isolation_monitor.alerts.build` from alerts/thresholds.yml and alerts/slo.yml; do not edit."
    return f"# {heading}\n# {origin}\n" + yaml.dump(tree, Dumper=_RuleDumper, sort_keys=False, width=10_000, allow_unicode=True)


class _Block(str):
    """A PromQL text, written as a block so that a person can read it."""


class _RuleDumper(yaml.SafeDumper):
    """Knows PromQL texts and writes other subclasses of `str` (durations) as plain text."""


def _represent_block(dumper: yaml.SafeDumper, text: _Block) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|" if "\n" in text else None)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_str(str(text))


_RuleDumper.add_representer(_Block, _represent_block)
_RuleDumper.add_multi_representer(str, _represent_text)
