"""Every query on notifications."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from isolation_monitor.collector.alerts.domain import ASKED, Notification, NotificationQuery, ReceivedNotification, ToldFiring
from isolation_monitor.collector.storage.database import insert_into
from isolation_monitor.collector.storage.models import NotificationRow

_OPEN_LIMIT: Final = 2_000


class NotificationRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def store(self, notifications: Sequence[Notification], received_at: datetime) -> None:
        """Insert each notification once; one that is already there is marked as delivered again."""
        statement = insert_into(self._connection, NotificationRow)
        statement = statement.on_conflict_do_update(
            index_elements=["id"],
            set_={
                "deliveries": NotificationRow.deliveries + 1,
                "last_received_at": statement.excluded.last_received_at,
                # The end that was delivered is better than the one that was concluded before.
                "ends_at": statement.excluded.ends_at,
            },
        )
        rows = {item.id: _values(item, received_at) for item in notifications}
        if rows:
            await self._connection.execute(statement, [rows[key] for key in sorted(rows)])

    async def told_firing(self) -> list[ToldFiring]:
        """Return what was told of as firing and, as far as is known, may still fire or have been resolved too early; newest first."""
        row, end = NotificationRow, aliased(NotificationRow)
        same = (end.fingerprint == row.fingerprint, end.starts_at == row.starts_at, end.status == "resolved")
        is_resolved = select(end.id).where(*same, end.last_received_at >= row.last_received_at).exists()
        statement = select(row.__table__, is_resolved.label("is_resolved")).where(row.status == "firing")
        found = await self._connection.execute(statement.order_by(row.last_received_at.desc()).limit(_OPEN_LIMIT))
        return [ToldFiring(_received(one).notification, one.last_received_at, one.is_resolved) for one in found]

    async def receivers(self) -> set[str]:
        """Return the receivers that ever delivered."""
        row = NotificationRow
        return set((await self._connection.execute(select(row.receiver).where(row.receiver != ASKED).distinct())).scalars())

    async def find(self, query: NotificationQuery) -> list[ReceivedNotification]:
        row = NotificationRow
        statement = select(row.__table__).order_by(row.received_at.desc(), row.id.desc()).limit(query.limit)
        if query.since is not None:
            statement = statement.where(row.received_at >= query.since)
        if query.alertname is not None:
            statement = statement.where(row.alertname == query.alertname)
        if query.service is not None:
            statement = statement.where(row.labels["service"].as_string() == query.service)
        if query.status is not None:
            statement = statement.where(row.status == query.status)
        if query.until is not None:
            statement = statement.where(row.received_at < query.until)
        if query.after is not None:
            time, last_id = query.after
            statement = statement.where(or_(row.received_at < time, and_(row.received_at == time, row.id < last_id)))
        return [_received(found) for found in await self._connection.execute(statement)]

    async def open(self, since: datetime, limit: int) -> list[ReceivedNotification]:
        """Return what fires as far as anybody told: told of since then, and of its end not as late or later. Newest first."""
        row = NotificationRow
        # One alert is told of in several groups: what was said last of it holds, and its end where both came at once.
        newest_first = (row.last_received_at.desc(), row.status.desc(), row.id.desc())
        place = func.row_number().over(partition_by=(row.fingerprint, row.starts_at), order_by=newest_first)
        told = select(row.__table__, place.label("place")).where(row.last_received_at >= since).subquery()
        statement = select(told).where(told.c.place == 1, told.c.status == "firing")
        statement = statement.order_by(told.c.starts_at.desc(), told.c.id.desc()).limit(limit)
        return [_received(found) for found in await self._connection.execute(statement)]


def _values(item: Notification, received_at: datetime) -> dict[str, Any]:
    return {
        "id": item.id,
        "received_at": received_at,
        "last_received_at": received_at,
        "deliveries": 1,
        "status": item.status,
        "alertname": item.alertname,
        "group_key": item.group_key,
        "fingerprint": item.fingerprint,
        "receiver": item.receiver,
        "labels": item.labels,
        "annotations": item.annotations,
        "starts_at": item.starts_at,
        "ends_at": item.ends_at,
    }


def _received(row: Row[Any]) -> ReceivedNotification:
    notification = Notification(
        row.group_key, row.receiver, row.status, row.fingerprint, row.labels, row.annotations, row.starts_at, row.ends_at
    )
    return ReceivedNotification(notification, row.id, row.received_at, row.last_received_at, row.deliveries)
