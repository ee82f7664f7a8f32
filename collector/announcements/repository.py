"""The violations that bursts are made of."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.storage.models import ViolationRow, counting, crossing

_LIMIT = 10_000


async def violations_since(connection: AsyncConnection, since: datetime) -> list[tuple[str, str, datetime, int]]:
    """Return (id, service, arrival, count) of what arrived since then and lowers the score; no synthetic or retracted ones."""
    row = ViolationRow
    statement = (
        select(row.id, row.service, row.received_at, row.count.label("requests"))
        .where(row.received_at >= since, *counting(), crossing())
        .order_by(row.received_at, row.id)
        .limit(_LIMIT)
    )
    return [(found.id, found.service, found.received_at, found.requests) for found in await connection.execute(statement)]
