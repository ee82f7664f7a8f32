"""Watching a drill's alerts on their way: firing in Prometheus, active in Alertmanager, delivered to the collector."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx2

from isolation_monitor.alerts.drills import Recipe
from isolation_monitor.alerts.model import Alert
from isolation_monitor.cli.collector_client import CollectorClient, NoAnswer
from isolation_monitor.cli.drill_page import DrillTarget
from isolation_monitor.cli.prometheus_client import PrometheusAccess

Json = dict[str, Any]  # Any: JSON

_TIMEOUT_S: Final = 10.0
_PAGE: Final = 200
"""Notifications of one alert that are looked at, newest first."""


class Drill:
    """One alert's drill: since when it is caused, when its notification arrived, and where it is meanwhile."""

    def __init__(self, alert: Alert, target: DrillTarget, own_wait_s: float, within_s: float) -> None:
        self.alert = alert
        self.target = target
        self.own_wait_s = own_wait_s
        self.allowed_s = within_s + own_wait_s
        self.begun_at = 0.0
        self.arrived_after_s: float | None = None
        self.stage = "not caused"
        self.known_deliveries: dict[str, int] = {}

    @property
    def recipe(self) -> Recipe:
        return self.target.recipe

    @property
    def ok(self) -> bool:
        return self.arrived_after_s is not None and self.arrived_after_s <= self.allowed_s

    @property
    def is_open(self) -> bool:
        return self.arrived_after_s is None and time.monotonic() - self.begun_at <= self.allowed_s

    def begin(self) -> None:
        """Break the service."""
        self.begun_at = time.monotonic()
        self.target.broken_at = self.begun_at
        self.stage = self.unseen

    @property
    def unseen(self) -> str:
        """Where the alert is as long as nobody has seen it."""
        return "not handed to Alertmanager" if self.recipe.rolls_back else "not firing in Prometheus"

    def heal(self) -> None:
        if self.target.broken_at is not None and self.target.healed_at is None:
            self.target.healed_at = time.monotonic()

    def is_mine(self, labels: Mapping[str, str]) -> bool:
        """Return whether an alert with these labels is the one that this drill causes."""
        expected = {"alertname": self.alert.name, "severity": self.alert.severity, "action": self.alert.action, **self.recipe.expected}
        if self.recipe.names_service:
            expected["service"] = self.target.service
        return expected.items() <= labels.items()

    def as_json(self) -> Json:
        return {
            "alert": self.alert.name,
            "severity": self.alert.severity,
            "action": self.alert.action,
            "service": self.target.service if self.recipe.names_service else None,
            "receiver": self.recipe.receiver,
            "arrived_after_s": None if self.arrived_after_s is None else round(self.arrived_after_s, 1),
            "own_wait_s": self.own_wait_s,
            "allowed_s": self.allowed_s,
            "stage": self.stage,
            "ok": self.ok,
        }


class Watch:
    """Asks the collector what arrived and, while something has not, the other two where it is."""

    def __init__(self, collector: CollectorClient, prometheus: str, alertmanager: str | None) -> None:
        self._collector = collector
        self._prometheus = prometheus.rstrip("/")
        self._alertmanager = None if alertmanager is None else alertmanager.rstrip("/")
        # Two: a token for Prometheus is none of Alertmanager's business.
        self._asking = PrometheusAccess.from_env().client(_TIMEOUT_S)
        self._client = httpx2.Client(timeout=_TIMEOUT_S, trust_env=False)

    def require(self) -> None:
        """Raise httpx2.HTTPError unless Prometheus answers: a drill without it would prove nothing."""
        self._asking.get(f"{self._prometheus}/-/ready").raise_for_status()

    def remember(self, drills: Sequence[Drill]) -> None:
        """Note what arrived before the drills: it does not count.

        Raises:
            NoAnswer: the collector is away.
        """
        for drill in drills:
            drill.known_deliveries = {item["id"]: item["deliveries"] for item in self._delivered(drill)}

    def look(self, drills: Sequence[Drill]) -> None:
        """Bring the open drills up to date. Parts that do not answer this time are asked again the next."""
        waiting = [drill for drill in drills if drill.is_open]
        for drill in waiting:
            try:
                arrived = any(item["deliveries"] > drill.known_deliveries.get(item["id"], 0) for item in self._delivered(drill))
            except NoAnswer:
                drill.stage = "the collector does not answer"
                continue
            if arrived:
                drill.arrived_after_s = time.monotonic() - drill.begun_at
                drill.stage = "arrived"
                drill.heal()
            else:
                drill.stage = drill.unseen
        left = [drill for drill in waiting if drill.arrived_after_s is None]
        if left:
            self._locate(left)

    def _delivered(self, drill: Drill) -> list[Json]:
        answer = self._collector.request("GET", f"/v1/alerts?alertname={drill.alert.name}&status=firing&limit={_PAGE}")
        return [item for item in answer["items"] if item["receiver"] == drill.recipe.receiver and drill.is_mine(item["labels"])]

    def _locate(self, drills: Sequence[Drill]) -> None:
        try:
            answer = self._asking.get(f"{self._prometheus}/api/v1/alerts").raise_for_status().json()
            in_prometheus = answer["data"]["alerts"]
            active = [] if self._alertmanager is None else self._client.get(f"{self._alertmanager}/api/v2/alerts").raise_for_status().json()
        except (httpx2.HTTPError, ValueError, KeyError):
            return
        for drill in drills:
            # Prometheus shows alerts as the rule made them, before they become synthetic.
            states = {item["state"] for item in in_prometheus if drill.is_mine({**item["labels"], **drill.recipe.expected})}
            if "firing" in states:
                drill.stage = "fires in Prometheus, not delivered"
            elif states:
                drill.stage = "pending in Prometheus"
            found = next((item for item in active if drill.is_mine(item["labels"])), None)
            if found is not None:
                drill.stage = f"{found['status']['state']} in Alertmanager, not delivered"
