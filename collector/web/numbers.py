"""The numbers of the pages, read from Prometheus: by service and by detector, now and over 30 days.

Expressions stay inside what Prometheus 2.42 accepts. Services of drills are left out: they are invented.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isolation_monitor.alerts.prometheus_config import DRILL_SERVICES
from isolation_monitor.alerts.recording import CHECKS_SILENT, DETECTORS_GREY, TARGET_DOWN
from isolation_monitor.collector.gates.prometheus import PrometheusSource, Sample
from isolation_monitor.collector.web.verdict import Reading
from isolation_monitor.telemetry import names

HISTORY_DAYS: Final = 30
SLOT_S: Final = 6 * 3600
"""One column of the history."""

_REAL: Final = f'service!~"{DRILL_SERVICES}"'
_LAST_MINUTE: Final = "1m"


@dataclass(frozen=True, slots=True)
class DetectorPower:
    """One detector of one service. `power` is the lower bound of its recall on planted faults, 0-1; None untested or off."""

    service: str
    detector: str
    state: str
    power: float | None
    seen: int
    missed: int
    checks: float


@dataclass(frozen=True, slots=True)
class Slot:
    """Six hours of one service. `lowest` is the lowest score, None where nothing was measured; shares of time are 0-1."""

    at_s: int
    lowest: float | None
    measured: float | None
    blind: float | None
    violations: int


def now_queries() -> dict[str, str]:
    """Return one expression for each number of `Reading`, each by service."""
    requests = f"sum by (service) (increase({names.REQUESTS.name}{{{_REAL}}}[{_LAST_MINUTE}]))"
    judged = f'sum by (service) (increase({names.REQUESTS.name}{{{_REAL},verdict!="unverified"}}[{_LAST_MINUTE}]))'
    exposed = f'sum by (service) (increase({names.REQUESTS.name}{{{_REAL},exposed="true"}}[{_LAST_MINUTE}]))'
    return {
        "score": f"{names.ISOLATION_SCORE}{{{_REAL}}}",
        "state": f"{names.ISOLATION_SCORE_STATE}{{{_REAL}}} == 1",
        "age_s": f"time() - max by (service) (timestamp({names.ISOLATION_SCORE_STATE}{{{_REAL}}}))",
        "coverage": f"{judged} / ({requests} > 0)",
        "requests": requests,
        "exposed": exposed,
        "detectors_grey": f"{DETECTORS_GREY}{{{_REAL}}}",
        "targets_down": f"{TARGET_DOWN}{{{_REAL}}}",
        "unchecked": f"{CHECKS_SILENT}{{{_REAL}}} > 0",
        "containment": f"{names.FAILURE_CONTAINMENT_RATE}{{{_REAL}}}",
        "delivery": f"{names.EVENT_DELIVERY_RATE}{{{_REAL}}}",
        "creation_ms": f"{names.INSTANCE_CREATION_TIME_MS}{{{_REAL}}}",
    }


class PageNumbers:
    """Asks Prometheus for what a page shows.

    Every method raises SourceUnavailable where Prometheus does not answer.
    """

    def __init__(self, source: PrometheusSource) -> None:
        self._source = source

    async def readings(self, now: datetime) -> dict[str, Reading]:
        """Return what is known of each service, by name."""
        found = await self._at(now_queries(), now)
        by_service: dict[str, dict[str, float | str]] = defaultdict(dict)
        for name, samples in found.items():
            for labels, _, value in samples:
                if (service := labels.get("service")) and math.isfinite(value):
                    by_service[service][name] = labels.get("state", "") if name == "state" else value
        return {service: Reading(**values) for service, values in sorted(by_service.items())}  # type: ignore[arg-type]  # state is text

    async def detectors(self, now: datetime) -> list[DetectorPower]:
        """Return every detector of every service, the ones that miss their planted faults first."""
        states = f"max by (service, detector, state) ({names.DETECTOR_STATE.name}{{{_REAL}}}) > 0"
        planted = f"sum by (service, detector, result) (increase({names.PLANTED_FAULTS.name}{{{_REAL}}}[1h]))"
        found = await self._at(
            {
                "state": states,
                "power": f"min by (service, detector) ({names.DETECTOR_POWER.name}{{{_REAL}}} >= 0)",
                "planted": planted,
                "checks": f"sum by (service, detector) (increase({names.CHECKS.name}{{{_REAL}}}[1h]))",
            },
            now,
        )
        state: dict[tuple[str, str], set[str]] = defaultdict(set)
        for labels, _, _ in found["state"]:
            state[_who(labels)].add(labels.get("state", ""))
        power = {_who(labels): value for labels, _, value in found["power"]}
        checks = {_who(labels): value for labels, _, value in found["checks"]}
        planted_by = {(*_who(labels), labels.get("result", "")): value for labels, _, value in found["planted"]}
        rows = [
            DetectorPower(
                service, detector, _worst(states), power.get((service, detector)),
                math.floor(planted_by.get((service, detector, "seen"), 0.0) + 0.5),
                math.ceil(planted_by.get((service, detector, "missed"), 0.0) - 0.05), checks.get((service, detector), 0.0),
            )
            for (service, detector), states in state.items()
        ]  # fmt: skip
        return sorted(rows, key=lambda row: (row.service, _STATE_ORDER.index(row.state), row.detector))

    async def history(self, now: datetime) -> dict[str, list[Slot]]:
        """Return the last 30 days of each service, oldest first, in slots of six hours."""
        end_s = math.ceil(now.timestamp() / SLOT_S) * SLOT_S
        start_s = end_s - HISTORY_DAYS * 86400 + SLOT_S
        window = f"{SLOT_S}s"
        counted = f'{names.VIOLATIONS.name}{{{_REAL},synthetic="false",grade=~"crossed|reachable"}}'
        found = await self._source.read_range(
            {
                "lowest": f"min by (service) (min_over_time({names.ISOLATION_SCORE}{{{_REAL}}}[{window}]))",
                "measured": f'max by (service) (avg_over_time({names.ISOLATION_SCORE_STATE}{{{_REAL},state="measured"}}[{window}]))',
                "blind": f'max by (service) (avg_over_time({names.ISOLATION_SCORE_STATE}{{{_REAL},state="blind"}}[{window}]))',
                "violations": f"sum by (service) (increase({counted}[{window}]))",
            },
            start_s, end_s, SLOT_S,
        )  # fmt: skip
        values: dict[tuple[str, str, int], float] = {}
        for name, samples in found.items():
            for labels, at_s, value in samples:
                if math.isfinite(value):
                    values[name, labels.get("service", ""), round(at_s)] = value
        services = sorted({service for _, service, _ in values})
        return {
            service: [
                Slot(
                    at_s, values.get(("lowest", service, at_s)), values.get(("measured", service, at_s)),
                    values.get(("blind", service, at_s)),
                    # Any growth at all is at least one.
                    math.ceil(values.get(("violations", service, at_s), 0.0) - 1e-9),
                )
                for at_s in range(start_s, end_s + 1, SLOT_S)
            ]
            for service in services
        }  # fmt: skip

    async def _at(self, queries: Mapping[str, str], now: datetime) -> dict[str, list[Sample]]:
        at_s = math.floor(now.timestamp())
        return await self._source.read_range(queries, at_s, at_s, 1)


_STATE_ORDER: Final = ("grey", "untested", "proven", "off")


def _worst(states: set[str]) -> str:
    """Return the state of a detector whose workers differ: one that misses its planted fault makes it grey."""
    return next((state for state in _STATE_ORDER if state in states), "untested")


def _who(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get("service", ""), labels.get("detector", "")
