"""The one query on what workers said last. Evidence writes it, as part of a batch of records."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.queues.domain import Statement, Waiting
from isolation_monitor.collector.storage.models import SILENT_AFTER, QueueStatementRow


async def statements(connection: AsyncConnection, service: str | None, now: datetime) -> list[Statement]:
    """Return what the workers of a service, or of all, said last, in the order of their names; silent ones are left out."""
    row = QueueStatementRow
    query = select(row.__table__).where(row.received_at >= now - SILENT_AFTER).order_by(row.service, row.instance)
    if service is not None:
        query = query.where(row.service == service)
    return [
        Statement(
            found.service,
            found.instance,
            found.received_at,
            found.users,
            found.events,
            found.bytes,
            tuple(Waiting(**one | {"oldest": datetime.fromisoformat(one["oldest"])}) for one in found.deepest),
        )
        for found in await connection.execute(query)
    ]
