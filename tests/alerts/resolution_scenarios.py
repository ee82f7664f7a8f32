"""Scenarios of the alerts on the resolution of run ids."""

from __future__ import annotations

from tests.alerts.growth_scenarios import GrowthCase
from tests.real_parts.promtool import Firing, Scenario, ramp, series

_PAGE = {"severity": "error", "action": "page"}


def _unresolved() -> Scenario:
    """Of 1,000 resolutions a second, 10 that fail put the share on the threshold, 11 below it."""

    def one(service: str, failed: str, resolved: str) -> dict[str, str]:
        name = "isolation_id_resolutions_total"
        return {
            series(name, {"service": service, "source": "error"}): failed,
            series(name, {"service": service, "source": "registry"}): resolved,
        }

    inputs = {
        **one("at", ramp((900, 10)), ramp((900, 990))),
        **one("below", ramp((900, 11)), ramp((900, 989))),
        # One too few to say, and just enough.
        **one("few", "0x499 10x400", "0x499 9x400"),
        **one("many", "0x499 10x400", "0x499 10x400"),
        **one("fresh", "_x505 " + ramp((400, 5), start=5), "_x505 " + ramp((400, 5), start=5)),
        **one("restarted", "0x900", ramp((450, 10)) + " " + ramp((450, 10))),
        **one("healed", ramp((100, 500), (800, 0)), ramp((100, 500), (800, 1000))),
        # Another source, and another instance, of a service that is on the threshold.
        series("isolation_id_resolutions_total", {"service": "at", "source": "pattern"}): "0x900",
    }

    def firing(percent: str, *services: str) -> list[Firing]:
        return [
            Firing(
                {"service": service, **_PAGE},
                f"{service}: fewer than 99 % of run ids resolve to their thread",
                f"{percent} % of the run ids that {service} was to resolve in the last 5m led to a thread. For the others every source "
                "failed, knew nothing, or contradicted another: their users' events and answers go nowhere.",
            )
            for service in services
        ]

    below = firing("98.90", "below")
    return Scenario(
        "ResolutionBelow99 level",
        inputs,
        "ResolutionBelow99",
        {
            90: [*below, *firing("50.00", "healed")],
            # Below for the last time at 392, when 8 of the 300 seconds were half lost; its page stays for a minute.
            440: [*below, *firing("98.67", "healed")],
            498: [*below],
            502: [*below, *firing("50.00", "many")],
            540: [*below, *firing("50.00", "many", "fresh")],
        },
        every_s=2,
    )


def _share() -> Scenario:
    """Three of four resolved are 75 %; one single resolution is a share, too; of none at all there is none."""
    name, recorded = "isolation_id_resolutions_total", "service:isolation_ids_resolved:percent"
    inputs = {
        series(name, {"service": "chat", "source": "registry"}): ramp((600, 2)),
        series(name, {"service": "chat", "source": "orchestrator"}): ramp((600, 1)),
        series(name, {"service": "chat", "source": "error"}): ramp((600, 1)),
        series(name, {"service": "rare", "source": "registry"}): "0x400 1x200",
        series(name, {"service": "rare", "source": "error"}): "0x600",
        series(name, {"service": "idle", "source": "registry"}): "0x600",
        series(name, {"service": "idle", "source": "error"}): "0x600",
    }
    shares = {series(recorded, {"service": "chat"}): 75.0, series(recorded, {"service": "rare"}): 100.0}
    return Scenario("share of ids resolved", inputs, samples={(recorded, 500): shares}, every_s=100)


RESOLUTION_SCENARIOS = [
    _unresolved(),
    _share(),
    GrowthCase(
        "ResolutionConflict",
        "isolation_violations_total",
        {"kind": "id_resolution", "grade": "reachable", "synthetic": "false", "arm": "none"},
        {"kind": "id_resolution", "synthetic": "false", "severity": "critical", "rollback": "true", "action": "page"},
        "a run id leads to two users or threads",
        lambda n, service: (
            f"About {n} times in the last 10s, sources of {service} named different threads or owners for one run, or a thread of another "
            "user was served. One user's run may answer into another's thread. Roll back first; the evidence has what each source said."
        ),
        silent=[
            {"kind": "id_resolution", "grade": "hygiene", "synthetic": "false"},
            {"kind": "instance_reuse", "grade": "crossed", "synthetic": "false"},
        ],
    ).scenario(),
]
