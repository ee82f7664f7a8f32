"""Alerts, told in domain words: keep what was delivered, list it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from isolation_monitor.collector.alerts.domain import Notification, NotificationQuery, ReceivedNotification
from isolation_monitor.collector.alerts.repository import NotificationRepository
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.storage.database import Database


class AlertService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def keep(self, notifications: Sequence[Notification]) -> None:
        """Store one delivery whole.

        Raises:
            StoreUnavailable: nothing of it was stored; Alertmanager tries again after the 503 that this becomes.
        """
        async with self._database.writing() as connection:
            await NotificationRepository(connection).store(notifications, self._clock())

    async def find(self, query: NotificationQuery) -> list[ReceivedNotification]:
        async with self._database.reading() as connection:
            return await NotificationRepository(connection).find(query)

    async def open(self, since: datetime, limit: int) -> list[ReceivedNotification]:
        """Return the alerts that fire as far as Alertmanager told since then, newest first."""
        async with self._database.reading() as connection:
            return await NotificationRepository(connection).open(since, limit)
