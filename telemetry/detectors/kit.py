"""The kit: what every detector is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isolation_monitor.telemetry.provenance import Stores
from isolation_monitor.telemetry.switches import Switches

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import Exposure
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.principals import Principals
    from isolation_monitor.telemetry.settings import Settings
    from isolation_monitor.telemetry.violations import Reporter


@dataclass(frozen=True, slots=True)
class Kit:
    """One per monitor. `reporter` is where checks and violations go; `housekeeper` runs what is due later."""

    reporter: Reporter
    registry: MetricRegistry
    housekeeper: Housekeeper
    principals: Principals
    exposure: Exposure
    settings: Settings
    switches: Switches
    stores: Stores
