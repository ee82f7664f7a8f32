"""Asks a Prometheus what Grafana would ask: variables filled in, instant or over a range."""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from isolation_monitor.dashboards import queries

_TIMEOUT_S: Final = 30.0
_SCRAPE_INTERVAL_S: Final = 15.0
"""The provisioned data source's `timeInterval`; Grafana's `$__rate_interval` is at least four of it."""
_POINTS: Final = 240


class QueryError(Exception):
    """Prometheus refused a query or did not answer; the text names the query."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time range, unix seconds, and the distance between its points."""

    start_s: float
    end_s: float
    step_s: float

    @classmethod
    def until(cls, end_s: float, length_s: float) -> Window:
        """Return the last `length_s` seconds before `end_s`, in at most 240 points, whole seconds apart."""
        return cls(end_s - length_s, end_s, max(1.0, math.ceil(length_s / _POINTS)))


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels and its points (unix seconds, value), oldest first."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]


def fill(expr: str, window: Window, values: Mapping[str, str]) -> str:
    """Return the query with Grafana's variables filled in; `values` are the chosen services and instances, as regular expressions.

    Raises:
        QueryError: a variable has no value here.
    """
    rate_s = max(window.step_s + _SCRAPE_INTERVAL_S, 4 * _SCRAPE_INTERVAL_S)
    known = {
        "__rate_interval": f"{int(rate_s)}s",
        "__range": f"{max(1, round(window.end_s - window.start_s))}s",
        "__interval": f"{int(window.step_s)}s",
        **values,
    }

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if name not in known:
            raise QueryError(f"variable ${name} has no value in: {expr}")
        return known[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, expr)


class Prometheus:
    """A client for one Prometheus-compatible endpoint. `token` is sent as a bearer token when given."""

    def __init__(self, url: str, *, token: str | None = None, values: Mapping[str, str] | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.values = {"service": queries.EVERY_SERVICE, "instance": ".*", "rollout": ".*"} | dict(values or {})
        # No proxy of the environment: this speaks to a machine the user named.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opener.close()

    def now(self, expr: str, window: Window) -> list[Series]:
        """Return the values at the window's end, for an instant query."""
        found = self._ask("query", {"query": fill(expr, window, self.values), "time": f"{window.end_s:.3f}"})
        return [Series(item["metric"], _points([item["value"]])) for item in found]

    def over(self, expr: str, window: Window) -> list[Series]:
        """Return the values along the window."""
        found = self._ask(
            "query_range",
            {
                "query": fill(expr, window, self.values),
                "start": f"{window.start_s:.3f}",
                "end": f"{window.end_s:.3f}",
                "step": f"{window.step_s:g}",
            },
        )
        return [Series(item["metric"], points) for item in found if (points := _points(item["values"]))]

    def _ask(self, what: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:  # Any: JSON
        request = urllib.request.Request(
            f"{self._url}/api/v1/{what}", data=urllib.parse.urlencode(parameters).encode(), headers=self._headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return list(json.load(answer)["data"]["result"])
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(f"{error.code} {error.read(500).decode(errors='replace')} for: {parameters['query']}") from None
        except (OSError, ValueError, KeyError) as error:
            raise QueryError(f"{self._url} did not answer ({error}) for: {parameters['query']}") from None


def _points(values: list[list[Any]]) -> tuple[tuple[float, float], ...]:
    pairs = ((float(at), float(value)) for at, value in values)
    return tuple((at, value) for at, value in pairs if math.isfinite(value))
