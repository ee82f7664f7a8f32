"""What the demonstration asks the collector: violations, received alerts, rollouts and gates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2

from isolation_monitor.demo.errors import DemoError

Json = dict[str, Any]  # Any: JSON

DEAD_MANS_SWITCH = "DeadMansSwitch"


class CollectorError(DemoError):
    """The collector refused a request; the text holds its reason."""


_ACTOR = "the demonstration"
"""Who the history of rollouts names."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One alert as the receiver got it. Times are Unix seconds."""

    alertname: str
    status: str
    received_at: float
    labels: dict[str, str]

    @property
    def text(self) -> str:
        kind = self.labels.get("kind") or self.labels.get("component")
        return f"{self.alertname}({kind})" if kind else self.alertname


class Collector:
    """A client of one collector. `client` has its base URL and the read token."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def violations(self, *, kind: str | None = None, since: float | None = None, limit: int = 100) -> list[Json]:
        """Return users' violations, newest first, optionally of one kind and from a time on (Unix seconds); no planted ones."""
        parameters: dict[str, str | int] = {"limit": limit, "synthetic": "false"}
        if kind is not None:
            parameters["kind"] = kind
        if since is not None:
            parameters["since"] = rfc3339(since)
        items: list[Json] = (await self._get("/v1/violations", parameters))["items"]
        return items

    async def violation(self, violation_id: str) -> Json:
        """Return one violation with all its evidence."""
        return await self._get(f"/v1/violations/{violation_id}")

    async def notifications(self, *, since: float) -> list[Notification]:
        """Return what Alertmanager's webhook brought since a time (Unix seconds), newest first, without drills and planted faults."""
        items = (await self._get("/v1/alerts", {"since": rfc3339(since), "limit": 500}))["items"]
        return [
            Notification(item["alertname"], item["status"], unix(item["received_at"]), item["labels"])
            for item in items
            if item["labels"].get("synthetic") != "true"
        ]

    async def start_rollout(self, name: str, service: str, **settings: object) -> None:
        """Start a rollout, whose gate judges what the service does from now on."""
        response = await self._client.post("/v1/rollouts", json={"name": name, "service": service, "arm": None, **settings})
        _raise_for(response)

    async def apply_rollout(self, name: str, spec: Json) -> None:
        """Store a rollout's file; nobody gets anything by it."""
        _raise_for(await self._client.put(f"/v1/rollouts/{name}", json={"spec": spec, "actor": _ACTOR, "reason": "the story's file"}))

    async def take_step(self, name: str, step: str, reason: str) -> None:
        """Take one step of a rollout: `start`, `advance`, `hold`, `rollback` or `re-arm`."""
        _raise_for(await self._client.post(f"/v1/rollouts/{name}/{step}", json={"actor": _ACTOR, "reason": reason}))

    async def rollout(self, name: str) -> Json:
        """Return a rollout; `state` says its stage."""
        return await self._get(f"/v1/rollouts/{name}")

    async def gate(self, rollout: str) -> Json:
        """Return the gate's answer for a rollout; `result` is pass, fail, inconclusive or error."""
        return await self._get(f"/v1/gates/{rollout}")

    async def _get(self, path: str, parameters: dict[str, str | int] | None = None) -> Json:
        response = await self._client.get(path, params=parameters)
        _raise_for(response)
        body: Json = response.json()
        return body


def rfc3339(time: float) -> str:
    """Return Unix seconds as UTC text with milliseconds.

    >>> rfc3339(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix(text: str) -> float:
    """Return RFC 3339 text as Unix seconds.

    >>> unix("1970-01-01T00:00:00.250Z")
    0.25
    """
    return datetime.fromisoformat(text).timestamp()


def _raise_for(response: httpx2.Response) -> None:
    if not response.is_success:
        raise CollectorError(f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:300]}")
