"""Every query on starts and ends. Evidence writes these records, as it does all whose type it does not know."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, literal, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.lifecycle.domain import CLEANUP, STARTUP, LifecycleQuery, LifecycleRecord, read_record
from isolation_monitor.collector.storage.days import days_in
from isolation_monitor.collector.storage.models import OF_LIFECYCLE, UnknownRecordRow

_ROW: Final = UnknownRecordRow
_STATE: Final = _ROW.body["state"].as_string()
_LEFT: Final = _ROW.body["left"].as_string()
_KINDS: Final[dict[str, ColumnElement[bool]]] = {
    "hanging": and_(_ROW.type == STARTUP, _STATE == "hanging"),
    "failed": and_(_ROW.type == STARTUP, _STATE == "failed"),
    "startup": _ROW.type == STARTUP,
    "left": and_(_ROW.type == CLEANUP, _LEFT != "{}"),
    "cleanup": _ROW.type == CLEANUP,
}
_AROUND: Final = 50
"""Records before and after one, among which are those of its process."""


class LifecycleRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, query: LifecycleQuery) -> list[LifecycleRecord]:
        """Return at most `query.limit` records, newest first, ties by id."""
        statement = _selected().order_by(_ROW.time.desc(), _ROW.id.desc()).limit(query.limit)
        if query.service is not None:
            statement = statement.where(_ROW.service == query.service)
        if query.kind is not None:
            statement = statement.where(_KINDS[query.kind])
        if query.since is not None:
            statement = statement.where(_ROW.time >= query.since)
        if query.until is not None:
            statement = statement.where(_ROW.time < query.until)
        if query.after is not None:
            last = tuple_(literal(query.after[0], _ROW.time.type), literal(query.after[1]))
            statement = statement.where(tuple_(_ROW.time, _ROW.id) < last)
        return await self._records(statement)

    async def get(self, record_id: str) -> LifecycleRecord | None:
        days = days_in([record_id])
        statement = _selected().where(_ROW.id == record_id, *([] if days is None else [_ROW.day.in_(days)])).limit(1)
        return next(iter(await self._records(statement)), None)

    async def around(self, record: LifecycleRecord) -> list[LifecycleRecord]:
        """Return what was told under the name of the record's process, before it and after it, the record among them."""
        named = _selected().where(_ROW.instance == record.instance, _ROW.service == record.service).limit(_AROUND)
        before = await self._records(named.where(_ROW.time <= record.time).order_by(_ROW.time.desc()))
        return before + await self._records(named.where(_ROW.time > record.time).order_by(_ROW.time))

    async def ends_of(self, instances: Collection[str], since: datetime) -> list[LifecycleRecord]:
        """Return what these processes told since then of start-ups that are over, and of clean-ups."""
        if not instances:
            return []
        over = (_ROW.type == CLEANUP) | (_STATE != "hanging")
        return await self._records(_selected().where(_ROW.instance.in_(instances), _ROW.time >= since, over))

    async def _records(self, statement: Select[Any]) -> list[LifecycleRecord]:  # Any: its columns
        return [_record(row) for row in await self._connection.execute(statement)]


def _selected() -> Select[Any]:  # Any: as above
    # In these very words: SQLite takes a partial index only for a question that says what the index says.
    return select(_ROW.__table__).where(text(OF_LIFECYCLE))


def _record(row: Row[Any]) -> LifecycleRecord:
    return read_record(row.id, row.service, row.instance, row.time, row.received_at, row.type, row.body)
