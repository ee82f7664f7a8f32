"""The violations that bursts are made of, and those that are to be paged for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from isolation_monitor.collector.new_violations import NewViolations
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


async def to_page_for_since(connection: AsyncConnection, since: datetime) -> list[NewViolations]:
    """Return by service and kind what arrived since then and breaks isolation; no synthetic, retracted or suppressed ones."""
    return await _to_page_for(connection, ViolationRow.received_at >= since)


async def to_page_for(connection: AsyncConnection, ids: Sequence[str]) -> list[NewViolations]:
    """Return the same of the violations with these ids."""
    return await _to_page_for(connection, ViolationRow.id.in_(ids))


async def _to_page_for(connection: AsyncConnection, chosen: ColumnElement[bool]) -> list[NewViolations]:
    row = ViolationRow
    statement = (
        select(
            row.service, row.kind, func.sum(row.count).label("requests"), func.max(row.id).label("example"),
            func.min(row.time).label("first"), func.max(row.time).label("last"),
        )
        .where(chosen, *counting(), crossing())
        .group_by(row.service, row.kind)
        .order_by(row.service, row.kind)
        .limit(_LIMIT)
    )  # fmt: skip
    return [
        NewViolations(found.service, found.kind, int(found.requests), found.example, found.first, found.last)
        for found in await connection.execute(statement)
    ]
