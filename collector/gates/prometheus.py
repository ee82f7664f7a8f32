"""Queries to Prometheus, or to anything that answers its API (Thanos, Mimir, VictoriaMetrics)."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

import httpx2

from isolation_monitor.collector.outbound import Answer, AnswerTooLarge, client, posted, why_unreachable
from isolation_monitor.telemetry.certificates import CertificateFiles

T = TypeVar("T")
Sample = tuple[dict[str, str], float, float]
"""Labels, time in seconds since 1970, value; the value may be NaN or infinite."""

_ANSWER_LIMIT: Final = 1024 * 1024
_RANGE_LIMIT: Final = 32 * 1024 * 1024
_ATTEMPTS: Final = 2
_RETRIED: Final = (429, 500, 502, 503, 504)
_PAUSE_S: Final = 0.2


class SourceUnavailable(Exception):
    """The numbers could not be read; the text says why, for people, without addresses or secrets."""


class PrometheusSource:
    """A query API."""

    def __init__(
        self, url: str, *, token: str | None = None, tenant: str | None = None, timeout_s: float = 3.0, tls: CertificateFiles | None = None
    ) -> None:
        """`timeout_s` is for all queries of one `read` together; `tls` says whom to trust and who we are, None what the system does."""
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if tenant:
            headers["X-Scope-OrgID"] = tenant
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._range_url = f"{url.rstrip('/')}/api/v1/query_range"
        self._timeout_s = timeout_s
        self._headers = headers
        self._tls = tls
        self._context = None if tls is None else tls.context()
        self._client = client(headers, timeout_s, self._context)
        self._former: httpx2.AsyncClient | None = None
        """The client before the certificates were changed last: what it still asks is let end."""

    async def close(self) -> None:
        await self._client.aclose()
        if self._former is not None:
            await self._former.aclose()

    async def _asking(self) -> httpx2.AsyncClient:
        """Return the client that has the certificates as their files are now."""
        if self._tls is not None and (context := self._tls.context()) is not self._context:
            self._context, former = context, self._former
            self._former, self._client = self._client, client(self._headers, self._timeout_s, context)
            if former is not None:
                await former.aclose()
        return self._client

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

    async def read_range(self, queries: Mapping[str, str], start_s: int, end_s: int, step_s: int) -> dict[str, list[Sample]]:
        """Return the samples of each query at every step from `start_s` to `end_s` (seconds since 1970).

        Raises:
            SourceUnavailable: at least one query could not be answered in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.gather(*(self._range(query, start_s, end_s, step_s) for query in queries.values()))
        except TimeoutError:
            raise SourceUnavailable(f"Prometheus did not answer within {self._timeout_s:g} s") from None
        return dict(zip(queries, found, strict=True))

    async def _value(self, query: str, at: datetime) -> float | None:
        return await self._asked(self._url, {"query": query, "time": f"{at.timestamp():.3f}"}, _ANSWER_LIMIT, _single)

    async def _range(self, query: str, start_s: int, end_s: int, step_s: int) -> list[Sample]:
        asked = {"query": query, "start": str(start_s), "end": str(end_s), "step": str(step_s)}
        return await self._asked(self._range_url, asked, _RANGE_LIMIT, _samples)

    async def _asked(self, url: str, data: dict[str, str], limit: int, parse: Callable[[Any], T]) -> T:
        data = data | {"timeout": f"{self._timeout_s:g}s"}
        try:
            answer = await self._posted(url, data, limit)
        except AnswerTooLarge:
            raise SourceUnavailable("Prometheus answered more than was asked for") from None
        if answer.status != 200:
            raise SourceUnavailable(f"Prometheus answered {answer.status}")
        try:
            return parse(answer.json())
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise SourceUnavailable("the configured address did not answer as Prometheus does") from None

    async def _posted(self, url: str, data: dict[str, str], limit: int) -> Answer:
        """Ask, and once more where the first try met a connection that broke or a server that was busy."""
        for attempt in range(_ATTEMPTS):
            last = attempt + 1 == _ATTEMPTS
            try:
                answer = await posted(await self._asking(), url, limit, data=data)
            except (httpx2.RequestError, httpx2.InvalidURL, ssl.SSLError) as error:
                if last or isinstance(error, httpx2.InvalidURL):
                    raise SourceUnavailable(f"Prometheus cannot be reached: {why_unreachable(error, url)}") from None
            else:
                if last or answer.status not in _RETRIED:
                    return answer
            await asyncio.sleep(_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")


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


def _samples(body: Any) -> list[Sample]:
    if body["status"] != "success" or body["data"]["resultType"] != "matrix":
        raise ValueError("not a range of vectors")
    return [(dict(series["metric"]), float(time), float(value)) for series in body["data"]["result"] for time, value in series["values"]]
