"""Probes: an endpoint that fails, one that is slow, a certificate near its end; and each just not."""

from __future__ import annotations

from tests.real_parts.promtool import Firing, Scenario, series

_STEP_S = 15
_DAY = 86400


def _of(service: str, name: str, values: str, instance: str = "a") -> dict[str, str]:
    labels = {"job": "collector", "service": service, "isolation_probe": "login", "instance": instance}
    return {series(f"isolation_probe_{name}", labels): values}


def _failing() -> Scenario:
    inputs = {
        **_of("down", "success", "1x3 0x40 1x40"),
        **_of("up", "success", "1x100"),
        # Well again at the next look.
        **_of("once", "success", "1x10 0 1x90"),
        # Another replica has taken over: the series of the first one is read once more.
        **_of("handed_over", "success", "0x100") | _of("handed_over", "success", "1x100", "b"),
    }
    firing = [
        Firing(
            {"service": "down", "isolation_probe": "login", "severity": "error", "action": "page"},
            "down: endpoint login fails its health check",
            "For 15s endpoint login of down has not answered as it should, or was not checked for three of its intervals. "
            "The collector's page Probes says what was found.",
        )
    ]
    return Scenario(
        "ProbeFailing", inputs, "ProbeFailing", {45: [], 60: [], 75: firing, 660: firing, 690: []}, every_s=_STEP_S, step_s=_STEP_S
    )


def _slow() -> Scenario:
    def one(service: str, took: str, success: str = "1x100") -> dict[str, str]:
        return _of(service, "duration_seconds", took) | _of(service, "success", success) | _of(service, "slow_after_seconds", "1x100")

    inputs = {
        **one("slow", "0.2x3 2.5x40 0.2x60"),
        **one("at", "1x100"),
        **one("now_and_then", "2.5x6 0.2 2.5x6 0.2 2.5x6 0.2 2.5x6 0.2x80"),
        # It runs into its timeout: that is another alert's.
        **one("fails", "5x100", "0x100"),
    }
    firing = [
        Firing(
            {"service": "slow", "isolation_probe": "login", "severity": "warning", "action": "ticket"},
            "slow: endpoint login answers slowly",
            "Every check of endpoint login of slow in the last 2m took longer than its file allows; the last one 2.5s. "
            "It still answers as it should.",
        )
    ]
    return Scenario("ProbeSlow", inputs, "ProbeSlow", {165: [], 180: firing, 660: firing, 690: []}, every_s=_STEP_S, step_s=_STEP_S)


def _certificate() -> Scenario:
    inputs = {
        # Renewed in the fifth minute.
        **_of("soon", "certificate_expiry_timestamp_seconds", f"{13 * _DAY}x20 {90 * _DAY}x80"),
        **_of("later", "certificate_expiry_timestamp_seconds", f"{15 * _DAY}x100"),
        # The mark is passed in the third minute, and the last word of one that is over counts too.
        # A second over it: the mark itself does not count yet.
        **_of("second", "certificate_expiry_timestamp_seconds", f"{14 * _DAY + 119}x100"),
        **_of("passes", "certificate_expiry_timestamp_seconds", f"{14 * _DAY + 120}x100"),
    }

    def firing(service: str, left: str) -> Firing:
        return Firing(
            {"service": service, "isolation_probe": "login", "severity": "warning", "action": "ticket"},
            f"{service}: the certificate of endpoint login expires soon",
            f"The certificate of endpoint login of {service} is valid for {left} more, less than 14 days. "
            "When it has expired nobody who verifies it connects any more, and ProbeFailing pages.",
        )

    moments = {
        0: [firing("soon", "13d 0h 0m 0s")],
        120: [firing("soon", "12d 23h 58m 0s"), firing("second", "13d 23h 59m 59s")],
        180: [firing("soon", "12d 23h 57m 0s"), firing("second", "13d 23h 58m 59s"), firing("passes", "13d 23h 59m 0s")],
        360: [firing("second", "13d 23h 55m 59s"), firing("passes", "13d 23h 56m 0s")],
    }
    return Scenario("CertificateExpiresSoon", inputs, "CertificateExpiresSoon", moments, every_s=_STEP_S, step_s=_STEP_S)


PROBE_SCENARIOS = [_failing(), _slow(), _certificate()]
