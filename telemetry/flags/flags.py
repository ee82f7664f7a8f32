"""A monitor's flags: the rules that hold here, and the note on the running request of what it was given.

Works without OpenFeature; `provider` and `hook` stand on it. It works on while the monitor is switched off: what users get never
depends on whether somebody watches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.flags import arms
from isolation_monitor.telemetry.flags.follower import Follower

if TYPE_CHECKING:
    from isolation_monitor.telemetry.flags.bucketing import FlagRule
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.settings import Settings


class Flags:
    """The flags of one process."""

    def __init__(self, settings: Settings, ledger: Ledger, housekeeper: Housekeeper) -> None:
        self._ledger = ledger
        self._cells = ledger.rollouts
        registry = ledger.registry
        self._fetches = {result: registry.counter(names.FLAG_FETCHES_TOTAL, result=result) for result in names.FLAG_FETCHES}
        self._stale = registry.gauge(names.FLAG_STALE)
        self.follower = Follower(settings, self._fetched, self._known)
        housekeeper.every_second(self._tick)

    def evaluated(self, rollout: str, variant: str | None, reason: str | None) -> None:
        """Label the running request with what it was given. Never raises; does nothing outside of a request.

        Args:
            variant: `on`, `off`, or any other name, which is no arm.
            reason: why, in OpenFeature's words; after `ERROR`, `DEFAULT` and `STALE` the request has no arm.
        """
        try:
            request = CURRENT.get()
            # A handshake counts as over when the application first asks for a message, which is before it decides anything: what
            # it evaluates then is for the messages of the connection.
            if request is None or (request.finished and request.connection is None):
                return
            if request.principal is None or not request.principal.is_synthetic:
                self._cells.evaluated(rollout, reason)
            if not arms.evaluated(request, rollout, arms.arm_of(variant, reason)):
                self._ledger.registry.counter(names.MONITOR_DROPPED, reason="label_cap").inc()
        except Exception as error:
            self._ledger.internal_error("flags", error)

    def close(self) -> None:
        """Stop following the collector. What is known stays in force."""
        self.follower.close()

    def _fetched(self, result: str) -> None:
        self._fetches[result].inc()

    def _known(self, rules: Mapping[str, FlagRule]) -> None:
        try:
            self._cells.know(rules)
        except Exception as error:
            self._ledger.internal_error("flags", error)

    def _tick(self, _: float) -> None:
        self._stale.set(1.0 if self.follower.is_stale else 0.0)
