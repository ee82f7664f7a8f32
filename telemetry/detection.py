"""Detection: all detectors of one monitor, built from one kit. The only place that knows them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isolation_monitor.telemetry.detectors.kit import Kit
from isolation_monitor.telemetry.detectors.session_leak import SessionLeaks
from isolation_monitor.telemetry.provenance import Stores
from isolation_monitor.telemetry.switches import Switches

if TYPE_CHECKING:
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principals
    from isolation_monitor.telemetry.settings import Settings


class Detection:
    """Holds the detectors by name as attributes, so that integrations can hand them what they see."""

    def __init__(self, ledger: Ledger, housekeeper: Housekeeper, principals: Principals, settings: Settings) -> None:
        self.ledger = ledger
        self.switches = Switches(settings.detectors)
        self.stores = Stores()
        self.kit = Kit(
            reporter=ledger,
            registry=ledger.registry,
            housekeeper=housekeeper,
            principals=principals,
            exposure=ledger.exposure,
            settings=settings,
            switches=self.switches,
            stores=self.stores,
        )
        # One line per detector, in the order of names.KIND_GRADES.
        self.leaks = SessionLeaks(ledger, ledger.registry, housekeeper, settings.leak_grace_s)
