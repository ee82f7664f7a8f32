"""The violations that bursts are made of, and the pages that are due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.new_violations import NewViolations
from isolation_monitor.collector.storage.models import ViolationRow, counting, crossing
from isolation_monitor.collector.storage.page_models import PageDueRow

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


async def pages_due(connection: AsyncConnection, until: datetime, limit: int) -> list[NewViolations]:
    """Return what was to be told by then and is still there, the oldest first, each row by itself."""
    row = PageDueRow
    statement = select(row.__table__).where(row.received_at <= until).order_by(row.received_at, row.id).limit(limit)
    return [
        NewViolations(found.service, found.kind, found.requests, found.example_id, found.first, found.last, (found.id,))
        for found in await connection.execute(statement)
    ]


async def pages_beyond(connection: AsyncConnection, kept: int, limit: int) -> list[str]:
    """Return the ids of at most `limit` rows beyond the newest `kept`."""
    row = PageDueRow
    return list(
        (await connection.execute(select(row.id).order_by(row.received_at.desc(), row.id.desc()).offset(kept).limit(limit))).scalars()
    )


async def forget_pages_due(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Delete these rows, as far as nobody else is about to."""
    row = PageDueRow
    # Two replicas that told the same would wait for each other's rows for ever.
    free = select(row.id).where(row.id.in_(ids)).with_for_update(skip_locked=True)
    await connection.execute(delete(row).where(row.id.in_(free)))
