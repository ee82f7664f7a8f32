"""Checks that a blackbox exporter does for us: it is asked as Prometheus asks it, and its `probe_*` series are read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.outbound import AnswerTooLarge, client, fetched
from isolation_monitor.collector.probes.domain import Probe, Reason, Result

_ANSWER_BYTES: Final = 1024 * 1024
_OFFSET_S: Final = 0.5
"""The exporter keeps so much of a scrape's timeout for itself."""
_MARGIN_S: Final = 2.0


class Blackbox:
    """One exporter. Build it, `await close()` it."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._client = client({}, 120.0)

    async def check(self, probe: Probe) -> Result:
        """Return what the exporter says of an endpoint. Never raises for what is wrong with either."""
        at, began = self._clock(), time.perf_counter()
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": f"{probe.timeout_s + _OFFSET_S:g}"}
        try:
            wait_s = probe.timeout_s + _MARGIN_S
            # The client's own limit is for each part of an answer.
            async with asyncio.timeout(wait_s):
                answer = await fetched(
                    self._client, f"{self._url}/probe", _ANSWER_BYTES, headers, wait_s, module=probe.module, target=probe.target
                )
            text = answer.body.decode("utf-8", errors="replace")
            if answer.status != 200:
                return _unknown(at, began, f"the exporter answers {answer.status}: {text.strip()[:200]}")
            return _result(at, probe, _samples(text))
        except (httpx2.RequestError, httpx2.InvalidURL, AnswerTooLarge, TimeoutError, ValueError, KeyError) as error:
            return _unknown(at, began, f"the exporter does not answer as one ({type(error).__name__})")

    async def close(self) -> None:
        await self._client.aclose()


def _unknown(at: datetime, began: float, detail: str) -> Result:
    return Result(at, time.perf_counter() - began, "exporter", detail)


def _samples(text: str) -> dict[str, float]:
    """Return each series by its name, or `name{phase}` where it has phases."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            phase = sample.labels.get("phase")
            if phase is not None or not sample.labels:
                found[sample.name if phase is None else f"{sample.name}{{{phase}}}"] = sample.value
    return found


def _result(at: datetime, probe: Probe, samples: Mapping[str, float]) -> Result:
    code = int(samples.get("probe_http_status_code", 0)) or None
    expiry = samples.get("probe_ssl_earliest_cert_expiry", 0)
    duration_s = samples["probe_duration_seconds"]
    reason: Reason = "" if samples["probe_success"] == 1 else _reason(probe, samples, code, duration_s)
    prefix = "probe_http_duration_seconds{"
    phases = {name.removeprefix(prefix)[:-1]: value for name, value in samples.items() if name.startswith(prefix)}
    return Result(
        at,
        duration_s,
        reason,
        f"the status is {code}" if reason == "status" else "",
        code,
        datetime.fromtimestamp(expiry, UTC) if expiry > 0 else None,
        int(samples.get("probe_http_redirects", 0)),
        phases,
    )


def _reason(probe: Probe, samples: Mapping[str, float], code: int | None, duration_s: float) -> Reason:
    if samples.get("probe_failed_due_to_regex") == 1:
        return "body"
    if code is not None:
        return "unknown" if 200 <= code <= 299 else "status"
    if duration_s >= 0.95 * probe.timeout_s:
        return "timeout"
    # Resolved names have a protocol, 4 or 6.
    return "dns" if samples.get("probe_ip_protocol") == 0 else "unreachable"
