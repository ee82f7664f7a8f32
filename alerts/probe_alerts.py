"""Alerts on probes: an endpoint that fails its health check, one that is slow, a certificate that expires soon."""

from __future__ import annotations

from isolation_monitor.alerts.model import DURATION, SERVICE, Alert, Group
from isolation_monitor.alerts.thresholds import Thresholds

SUCCESS = "isolation_probe_success"
DURATION_SECONDS = "isolation_probe_duration_seconds"
SLOW_AFTER = "isolation_probe_slow_after_seconds"
EXPIRY = "isolation_probe_certificate_expiry_timestamp_seconds"
_LABELS = frozenset({"service", "isolation_probe"})
COLLECTOR_SERIES = dict.fromkeys((SUCCESS, DURATION_SECONDS, SLOW_AFTER, EXPIRY), _LABELS)
"""Series of the collector that rules read, with their labels; no service exposes them."""
_BY = "by (service, isolation_probe)"
_PROBE = "{{ $labels.isolation_probe }}"


def groups(t: Thresholds) -> list[Group]:
    """Return the group of probes."""
    return [Group("isolation-probes", "5s", [_failing(t), _slow(t), _certificate(t)])]


def _failing(t: Thresholds) -> Alert:
    return Alert(
        "ProbeFailing",
        # A replica that has just handed over may be read once more: the best of all is the one that checks.
        f"max {_BY} ({SUCCESS}) == 0",
        "error",
        "page",
        summary=f"{SERVICE}: endpoint {_PROBE} fails its health check",
        description=(
            f"For {t.probes.failing_for} endpoint {_PROBE} of {SERVICE} has not answered as it should, or was not checked for three of its "
            "intervals. The collector's page Probes says what was found."
        ),
        for_=t.probes.failing_for,
    )


def _slow(t: Thresholds) -> Alert:
    # One that fails is not slow as well: it ran into its timeout.
    answers = f"(min {_BY} ({DURATION_SECONDS}) and max {_BY} ({SUCCESS}) == 1)"
    return Alert(
        "ProbeSlow",
        f"{answers}\n> on (service, isolation_probe)\nmax {_BY} ({SLOW_AFTER})",
        "warning",
        "ticket",
        summary=f"{SERVICE}: endpoint {_PROBE} answers slowly",
        description=(
            f"Every check of endpoint {_PROBE} of {SERVICE} in the last {t.probes.slow_for} took longer than its file allows; the last one "
            f"{DURATION}. It still answers as it should."
        ),
        for_=t.probes.slow_for,
    )


def _certificate(t: Thresholds) -> Alert:
    return Alert(
        "CertificateExpiresSoon",
        f"min {_BY} ({EXPIRY}) - time() < {t.probes.certificate_days * 86400}",
        "warning",
        "ticket",
        summary=f"{SERVICE}: the certificate of endpoint {_PROBE} expires soon",
        description=(
            f"The certificate of endpoint {_PROBE} of {SERVICE} is valid for {DURATION} more, less than {t.probes.certificate_days} days. "
            "When it has expired nobody who verifies it connects any more, and ProbeFailing pages."
        ),
    )
