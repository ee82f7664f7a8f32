"""Instant queries to Prometheus, or to anything that answers its API (Thanos, Mimir, VictoriaMetrics)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import httpx2

_ANSWER_LIMIT = 1024 * 1024


class SourceUnavailable(Exception):
    """The numbers could not be read; the text says why, for people, without addresses or secrets."""


class PrometheusSource:
    """A query API. Redirects are not followed: a token must not travel to another host."""

    def __init__(self, url: str, *, token: str | None = None, tenant: str | None = None, timeout_s: float = 3.0) -> None:
        """`timeout_s` is for all queries of one `read` together."""
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if tenant:
            headers["X-Scope-OrgID"] = tenant
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._timeout_s = timeout_s
        self._client = httpx2.AsyncClient(headers=headers, timeout=timeout_s, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def read(self, queries: Mapping[str, str], at: datetime) -> dict[str, float | None]:
        """Return the single value of each query at the moment `at`; None where there is no series or no finite value.

        Raises:
            SourceUnavailable: at least one query could not be answered in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                values = await asyncio.gather(*(self._value(query, at) for query in queries.values()))
        except TimeoutError:
            raise SourceUnavailable(f"Prometheus did not answer within {self._timeout_s:g} s") from None
        return dict(zip(queries, values, strict=True))

    async def _value(self, query: str, at: datetime) -> float | None:
        try:
            answer = await self._client.post(
                self._url, data={"query": query, "time": f"{at.timestamp():.3f}", "timeout": f"{self._timeout_s:g}s"}
            )
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise SourceUnavailable(f"Prometheus cannot be reached ({type(error).__name__})") from None
        if answer.status_code != 200:
            raise SourceUnavailable(f"Prometheus answered {answer.status_code}")
        if len(answer.content) > _ANSWER_LIMIT:
            raise SourceUnavailable("Prometheus answered more than one number's worth")
        try:
            return _single(answer.json())
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise SourceUnavailable("the configured address did not answer as Prometheus does") from None


def _single(body: Any) -> float | None:  # Any: another program's JSON
    if body["status"] != "success" or body["data"]["resultType"] != "vector":
        raise ValueError("not an instant vector")
    result = body["data"]["result"]
    if not result:
        return None
    if len(result) > 1:
        raise ValueError("more than one series")
    value = float(result[0]["value"][1])
    return value if math.isfinite(value) else None
