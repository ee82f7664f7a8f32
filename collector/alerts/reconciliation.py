"""Holds what the webhook told against what Alertmanager holds: a lost delivery, or a collector that was away, leaves no gap.

Only alerts that the webhook would have brought are taken: of receivers that delivered before, or any of a service while none has.
The end of an alert whose `resolved` was lost is known to be before now; a delivery that still comes corrects it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from isolation_monitor.collector.alerts.alertmanager import AlertmanagerHeld, HeldAlert, NotAsked
from isolation_monitor.collector.alerts.domain import ASKED, Notification
from isolation_monitor.collector.alerts.repository import NotificationRepository
from isolation_monitor.collector.background import whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.storage.database import Database

logger = logging.getLogger("isolation_monitor.collector")

INTERVAL_S: Final = 60.0
_GRACE: Final = timedelta(seconds=60)
"""Alertmanager groups before it delivers: what is younger may still be on its way."""
_SAY_AGAIN_S: Final = 600.0


class Reconciliation:
    def __init__(
        self, database: Database, clock: Clock, held: AlertmanagerHeld | None, leads: Callable[[], Coroutine[Any, Any, bool]]
    ) -> None:
        """`held` None: there is no Alertmanager to ask."""
        self._database = database
        self._clock = clock
        self._held = held
        self._leads = leads
        self._complained_s = float("-inf")

    async def close(self) -> None:
        if self._held is not None:
            await self._held.close()

    async def run(self) -> None:
        """Compare until cancelled, whenever this replica leads."""
        while self._held is not None:
            try:
                if await whole(self._leads()):
                    await whole(self.reconcile())
            except Exception as error:
                self._complain(error)
            await asyncio.sleep(INTERVAL_S)

    async def reconcile(self) -> int:
        """Compare once and return how many notifications were put right.

        Raises:
            NotAsked: Alertmanager gave no answer.
            StoreUnavailable: nothing was stored.
        """
        if self._held is None:
            return 0
        firing = {(alert.fingerprint, alert.starts_at): alert for alert in await self._held.firing()}
        now = self._clock()
        async with self._database.reading() as connection:
            repository = NotificationRepository(connection)
            told_firing = await repository.told_firing()
            receivers = await repository.receivers()
        put_right: list[Notification] = []
        for told in told_firing:
            key = (told.notification.fingerprint, told.notification.starts_at)
            if key in firing:
                if told.is_resolved:
                    # It was taken for over while Alertmanager had forgotten it, as after a restart.
                    put_right.append(told.notification)
            elif not told.is_resolved and told.last_received_at <= now - _GRACE:
                put_right.append(replace(told.notification, status="resolved", ends_at=now))
        known = {(told.notification.fingerprint, told.notification.starts_at) for told in told_firing}
        put_right += [_asked(alert) for key, alert in firing.items() if key not in known and _is_ours(alert, receivers, now)]
        if put_right:
            async with self._database.writing() as connection:
                await NotificationRepository(connection).store(put_right, now)
            logger.warning("%d alerts were not delivered as they are at Alertmanager: they are stored now", len(put_right))
        return len(put_right)

    def _complain(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained_s >= _SAY_AGAIN_S:
            self._complained_s = now
            logger.warning("alerts were not compared: %s", error if isinstance(error, NotAsked) else type(error).__name__)


def _is_ours(alert: HeldAlert, receivers: set[str], now: datetime) -> bool:
    if alert.starts_at > now - _GRACE or "service" not in alert.labels:
        return False
    return not receivers or bool(receivers & set(alert.receivers))


def _asked(alert: HeldAlert) -> Notification:
    return Notification(ASKED, ASKED, "firing", alert.fingerprint, alert.labels, alert.annotations, alert.starts_at, None)
