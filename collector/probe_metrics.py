"""What `/metrics` shows of probes: the last result of each, from the replica that checks.

A probe without a result for three intervals counts as failed, never as what it was last: a check that stopped must not look healthy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_LABELS = ("service", "isolation_probe")


@dataclass(frozen=True, slots=True)
class ProbeShown:
    """The last result of one probe. `fresh_for_s`: how long it says something about now."""

    service: str
    is_success: bool
    duration_s: float
    slow_after_s: float
    at_unix_s: float
    fresh_for_s: float
    status_code: int | None
    certificate_expiry_unix_s: float | None


class ProbeMetrics(Collector):
    """Gauges of the last results, made when they are read. The names are those of the operator's file, which bounds them."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._shown: dict[str, tuple[ProbeShown, float]] = {}
        self.file_is_valid = True
        """False while the operator's file, as it was changed, is not followed because of a mistake."""

    def checked(self, probe: str, shown: ProbeShown, ago_s: float = 0.0) -> None:
        """Show the result of a check that ended so many seconds ago."""
        self._shown[probe] = shown, self._monotonic() - ago_s

    def clear(self) -> None:
        """Show nothing: another replica checks."""
        self._shown.clear()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        success = GaugeMetricFamily(
            "isolation_probe_success",
            "1 when the last check of an endpoint succeeded, 0 when it failed or three intervals passed without one.",
            labels=_LABELS,
        )
        duration = GaugeMetricFamily("isolation_probe_duration_seconds", "Time that the last check of an endpoint took.", labels=_LABELS)
        slow = GaugeMetricFamily(
            "isolation_probe_slow_after_seconds", "Time beyond which a check of the endpoint is slow, as its file says.", labels=_LABELS
        )
        status = GaugeMetricFamily(
            "isolation_probe_http_status_code", "Status of the last answer over HTTP; 0 when there was none.", labels=_LABELS
        )
        expiry = GaugeMetricFamily(
            "isolation_probe_certificate_expiry_timestamp_seconds",
            "Unix time at which the first of the endpoint's certificates expires, as last seen.",
            labels=_LABELS,
        )
        last = GaugeMetricFamily(
            "isolation_probe_last_check_timestamp_seconds", "Unix time of the last check of an endpoint.", labels=_LABELS
        )
        valid = GaugeMetricFamily(
            "isolation_probe_config_last_reload_successful",
            "1 when the file of probes is followed as it is now, 0 when it was changed and has a mistake; 1 without a file.",
            value=self.file_is_valid,
        )
        now = self._monotonic()
        for probe, (shown, seen) in sorted(self._shown.copy().items()):
            labels = (shown.service, probe)
            is_fresh = now - seen <= shown.fresh_for_s
            success.add_metric(labels, is_fresh and shown.is_success)
            slow.add_metric(labels, shown.slow_after_s)
            last.add_metric(labels, shown.at_unix_s)
            if is_fresh:
                duration.add_metric(labels, shown.duration_s)
                status.add_metric(labels, shown.status_code or 0)
            if shown.certificate_expiry_unix_s is not None:
                expiry.add_metric(labels, shown.certificate_expiry_unix_s)
        yield from (success, duration, slow, status, expiry, last, valid)
