"""Every query on notifications."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.alerts.domain import Notification, NotificationQuery, ReceivedNotification
from isolation_monitor.collector.storage.models import NotificationRow


class NotificationRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def store(self, notifications: Sequence[Notification], received_at: datetime) -> None:
        """Insert each notification once; one that is already there is marked as delivered again."""
        insert = postgresql.insert if self._connection.dialect.name == "postgresql" else sqlite.insert
        statement = insert(NotificationRow)
        statement = statement.on_conflict_do_update(
            index_elements=["id"],
            set_={"deliveries": NotificationRow.deliveries + 1, "last_received_at": statement.excluded.last_received_at},
        )
        rows = {item.id: _values(item, received_at) for item in notifications}
        if rows:
            await self._connection.execute(statement, [rows[key] for key in sorted(rows)])

    async def find(self, query: NotificationQuery) -> list[ReceivedNotification]:
        row = NotificationRow
        statement = select(row.__table__).order_by(row.received_at.desc(), row.id.desc()).limit(query.limit)
        if query.since is not None:
            statement = statement.where(row.received_at >= query.since)
        if query.alertname is not None:
            statement = statement.where(row.alertname == query.alertname)
        if query.status is not None:
            statement = statement.where(row.status == query.status)
        if query.after is not None:
            time, last_id = query.after
            statement = statement.where(or_(row.received_at < time, and_(row.received_at == time, row.id < last_id)))
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
