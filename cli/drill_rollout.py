"""The rollout of a drill: started and taken back, so that the collector hands its own alert to Alertmanager.

It belongs to an invented service, `drill:SERVICE:RolloutRolledBack`, whose flags nobody asks for and whose alerts wake nobody.
Its name is the same each time: rollouts are never deleted, and one that waits, `ready`, is all that drills leave behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from isolation_monitor.alerts.drills import ROLLED_BACK
from isolation_monitor.cli.collector_client import CollectorClient
from isolation_monitor.telemetry.names import DRILL_PREFIX

ACTOR: Final = "isomon drill"
_NAME_LIMIT: Final = 100


class DrillRollout:
    """The one rollout of the drills of a service, in the collector that `client` may operate."""

    def __init__(self, client: CollectorClient, service: str) -> None:
        self._client = client
        self.service = f"{DRILL_PREFIX}{service}:{ROLLED_BACK.name}"
        self.name = "drill-" + re.sub(r"[^A-Za-z0-9._-]", "-", service)[: _NAME_LIMIT - len("drill-")]

    @contextmanager
    def started(self) -> Iterator[None]:
        """Let it run until the block ends, however it does; afterwards it waits, `ready`. Errors as for `start`."""
        self.start()
        try:
            yield
        finally:
            # Only what was taken back can be re-armed, and taking back is never refused.
            self.take_back()
            self.re_arm()

    def start(self) -> None:
        """Bring it to where it can be taken back from, whatever an earlier drill left.

        Raises:
            UsageError: the token may not operate, or the name belongs to another rollout.
            NoAnswer: the collector is away.
        """
        spec: dict[str, Any] = {  # Any: JSON
            "rollout": self.name,
            "service": self.service,
            "triggers": ["isolation"],
            "stages": [{"name": "full", "percent": 100, "soak": "1d", "advance": "manual"}],
        }
        self._client.request("PUT", f"/v1/rollouts/{self.name}", {"spec": spec, "actor": ACTOR, "reason": "a drill begins"})
        if self._client.request("GET", f"/v1/rollouts/{self.name}")["state"]["status"] == "rolled_back":
            self.re_arm()
        self._step("start", "a drill begins")

    def take_back(self) -> None:
        """Roll it back: what the drill is about. Errors as for `start`."""
        self._step("rollback", "a drill: nothing is wrong")

    def re_arm(self) -> None:
        """End the alert. Errors as for `start`."""
        self._step("re-arm", "the drill is over")

    def _step(self, step: str, reason: str) -> None:
        self._client.request("POST", f"/v1/rollouts/{self.name}/{step}", {"actor": ACTOR, "reason": reason})
