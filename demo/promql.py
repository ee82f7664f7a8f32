"""Asks Prometheus: what a story claims of metrics, it reads from there and not from the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2

from isolation_monitor.demo.errors import DemoError


class QueryError(DemoError):
    """Prometheus refused a query; the text holds the query and the reason."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series. `time` is Unix seconds."""

    labels: dict[str, str]
    time: float
    value: float


class Prometheus:
    """A client of one Prometheus. `client` has its base URL and headers."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def query(self, expression: str) -> list[Sample]:
        """Return the newest value of every series of an expression that yields a vector."""
        result = await self._result(expression)
        return [Sample(_labels(item), float(item["value"][0]), float(item["value"][1])) for item in result]

    async def value(self, expression: str) -> float | None:
        """Return the value of an expression of one series; None when it yields nothing.

        Raises:
            QueryError: it yields several series.
        """
        samples = await self.query(expression)
        if len(samples) > 1:
            raise QueryError(f"{expression} gave {len(samples)} series where one was expected: sum() them")
        return samples[0].value if samples else None

    async def raw(self, selector: str, seconds: float) -> list[list[Sample]]:
        """Return the scraped samples of the last `seconds` of every series of a selector, oldest first, as Prometheus stored them."""
        result = await self._result(f"{selector}[{max(1, round(seconds))}s]")
        return [[Sample(_labels(item), float(time), float(value)) for time, value in item["values"]] for item in result]

    async def ready(self) -> str | None:
        """Return None when it answers queries, else what it says."""
        return await probe(self._client, "/-/ready")

    async def targets_down(self) -> str | None:
        """Return None when every target of the configuration is up and none has yet to be scraped, else which are not."""
        data = (await self._client.get("/api/v1/targets", params={"state": "active"})).json()["data"]
        down = [
            f"{t['labels'].get('job')} ({t['health']} {t.get('lastError', '')})".strip()
            for t in data["activeTargets"]
            if t["health"] != "up"
        ]
        if not data["activeTargets"]:
            return "no target is known yet"
        return f"not scraped yet: {', '.join(down)}" if down else None

    async def firing(self) -> list[dict[str, str]]:
        """Return the labels of every alert that fires."""
        data = (await self._client.get("/api/v1/alerts")).json()["data"]
        return [alert["labels"] for alert in data["alerts"] if alert["state"] == "firing"]

    async def _result(self, expression: str) -> list[dict[str, Any]]:  # Any: JSON
        response = await self._client.get("/api/v1/query", params={"query": expression})
        body = response.json()
        if body.get("status") != "success":
            raise QueryError(f"Prometheus refused {expression}: {body.get('error', response.status_code)}")
        result: list[dict[str, Any]] = body["data"]["result"]
        return result


async def probe(client: httpx2.AsyncClient, path: str) -> str | None:
    """Return None when the path answers with success, else what came instead."""
    try:
        response = await client.get(path)
    except httpx2.TransportError as error:
        return f"{client.base_url}{path.lstrip('/')}: {type(error).__name__}"
    return None if response.is_success else f"{response.url} answered {response.status_code} {response.text[:200]}"


def _labels(item: dict[str, Any]) -> dict[str, str]:  # Any: JSON
    labels: dict[str, str] = item["metric"]
    return labels
