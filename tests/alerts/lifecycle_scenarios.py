"""Scenarios of the alerts on start-up and clean-up."""

from __future__ import annotations

from isolation_monitor.telemetry import names
from tests.alerts.growth_scenarios import GrowthCase
from tests.real_parts.promtool import Firing, Scenario, series

_PAGE = {"severity": "error", "action": "page"}
_TICKET = {"severity": "warning", "action": "ticket"}
_STEP_S = 15


def _hanging() -> Scenario:
    def phase(service: str, values: str, **labels: str) -> dict[str, str]:
        return {series(names.STARTUP_PHASE_HANGING.name, {"service": service, "isolation_phase": "database", **labels}): values}

    inputs = {
        **phase("alone", "0x9 1x10 0x100"),
        # Two instances: their workers are added, and another phase of theirs is another alert.
        **phase("several", "2x100", instance="a"),
        **phase("several", "1x100", instance="b"),
        **phase("several", "0x100", isolation_phase="cache"),
        **phase("healthy", "0x100"),
        # It ended with its process.
        **phase("gone", "1x5 stale"),
    }

    def firing(service: str, number: int) -> Firing:
        return Firing(
            {"service": service, "isolation_phase": "database", **_PAGE},
            f"{service}: start-up phase database hangs",
            f"{number} workers of {service} have been in start-up phase database for longer than `startup_hang_s`. They are not ready and "
            "take no traffic. The page has the line at which it stands, and what it waits for; so has the log.",
        )

    several = firing("several", 3)
    moments = {
        5: [several, firing("gone", 1)],
        50: [several, firing("alone", 1), firing("gone", 1)],
        # Kept for a minute, so that no page blinks; then it is over.
        90: [several, firing("alone", 1)],
        180: [several],
    }
    return Scenario("StartupPhaseHanging", inputs, "StartupPhaseHanging", moments, every_s=5, step_s=5)


def _slow() -> Scenario:
    def start(service: str, duration: str, ready: str, instance: str = "a") -> dict[str, str]:
        labels = {"service": service, "instance": instance}
        return {series(names.STARTUP_DURATION.name, labels): duration, series(names.STARTUP_READY.name, labels): ready}

    inputs = {
        **start("at", "30x100", "60x100"),
        # So far, and never ready.
        **start("endless", "0+15x100", "0x100"),
        # Ready at 60 s after a slow start: told of for ten minutes.
        **start("slow", "0+15x3 45x97", "0x4 60x96"),
        # One instance of two; the other was quick.
        **start("mixed", "31x100", "15x100") | start("mixed", "2x100", "15x100", "b"),
        # Slow, but long ago; its newest sibling is another instance.
        **start("old", "45x100", "0x100") | {series(names.STARTUP_READY.name, {"service": "old", "instance": "a"}): "1x100"},
        # A second more than ten minutes at the moment at which it is ten minutes for `slow`.
        **start("second", "45x100", "59x100"),
        # Nothing declared.
        **start("idle", "0x100", "0x100"),
    }

    def firing(service: str, duration: str) -> Firing:
        return Firing(
            {"service": service, **_TICKET},
            f"{service}: the start-up takes longer than 30 s",
            f"The slowest start-up of {service} took {duration}, or has taken so long so far; 30 s are allowed. Deployments, restarts and "
            "what scales the service wait as long. The page says which phase took it.",
        )

    second = firing("second", "45s")
    moments = {
        30: [firing("mixed", "31s"), firing("old", "45s"), second],
        60: [firing("endless", "1m 0s"), firing("slow", "45s"), firing("mixed", "31s"), firing("old", "45s"), second],
        600: [firing("endless", "10m 0s"), firing("slow", "45s"), firing("mixed", "31s"), firing("old", "45s"), second],
        645: [firing("endless", "10m 45s"), firing("slow", "45s"), second],
        660: [firing("endless", "11m 0s"), firing("slow", "45s")],
        675: [firing("endless", "11m 15s")],
    }
    return Scenario("StartupSlow", inputs, "StartupSlow", moments, every_s=_STEP_S, step_s=_STEP_S)


def _slow_cleanup() -> Scenario:
    def ends(service: str, within_5: str, within_10: str, all_: str) -> dict[str, str]:
        buckets = {"2.5": "0x100", "5.0": within_5, "10.0": within_10, "30.0": all_, "+Inf": all_}
        return {series(f"{names.CLEANUP_DURATION.name}_bucket", {"service": service, "le": le}): values for le, values in buckets.items()}

    inputs = {
        **ends("at", "0x9 1x90", "0x9 1x90", "0x9 1x90"),
        **ends("over", "0x100", "0x9 1x90", "0x9 1x90"),
        # One slow one among good ones, and the slowest speaks.
        **ends("among", "0x9 9x90", "0x9 9x90", "0x9 10x90"),
        **ends("none", "0x100", "0x100", "0x100"),
    }

    def firing(service: str, bound: str) -> Firing:
        return Firing(
            {"service": service, **_TICKET},
            f"{service}: the clean-up takes longer than 5 s",
            f"The slowest clean-up of {service} in the last 2m took more than 5 s, up to {bound}. Platforms kill what takes too long to "
            "end: then nothing is cleaned up at all. The page has the steps.",
        )

    both = [firing("over", "10s"), firing("among", "30s")]
    # In its window for two minutes, and kept for five.
    moments = {135: [], 165: both, 270: both, 540: both, 600: []}
    return Scenario("CleanupSlow", inputs, "CleanupSlow", moments, every_s=_STEP_S, step_s=_STEP_S)


LIFECYCLE_SCENARIOS = [
    _hanging(),
    _slow(),
    _slow_cleanup(),
    GrowthCase(
        "StartupFailed",
        f"{names.STARTUP_PHASE_DURATION.name}_count",
        {"isolation_phase": "database", "isolation_result": "failed"},
        {"isolation_phase": "database", **_PAGE},
        "start-up phase database fails",
        lambda n, service: (
            f"About {n} start-ups of {service} failed in phase database in the last 2m. These workers never got ready; what starts them "
            "tries again and again. The page has the class of its error, the service's log all of it."
        ),
        silent=[{"isolation_phase": "database", "isolation_result": "done"}],
        window_s=120,
        keep_s=300,
    ).scenario(),
    GrowthCase(
        "CleanupLeftovers",
        names.CLEANUP_LEFT.name,
        {"isolation_resource": "children"},
        {"isolation_resource": "children", **_TICKET},
        "processes leave children behind",
        lambda n, service: (
            f"About {n} children were left in the last 2m by processes of {service} that had cleaned up. What outlives its process fills "
            "the machine; what is cut off was not finished. The page has each clean-up, the log names each."
        ),
        window_s=120,
        keep_s=300,
    ).scenario(),
]
