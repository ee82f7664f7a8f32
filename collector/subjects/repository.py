"""Every query of forgetting. Evidence has no index by user: a day at a time is read through, and changed by key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any, Final

from sqlalchemy import Text, cast, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.storage.days import hour_number
from isolation_monitor.collector.storage.models import (
    EVIDENCE,
    AmendmentRow,
    Base,
    ForgettingRow,
    QueueStatementRow,
    RunRow,
    UnknownRecordRow,
    ViolationRow,
)
from isolation_monitor.collector.storage.rollup_models import DAY, MentionRow, RollupRow, ViolationDayRow
from isolation_monitor.collector.subjects.domain import Forgetting

Row = Mapping[str, Any]

PLACES: Final[dict[type[Base], tuple[str, ...]]] = {
    ViolationRow: ("summary", "resource", "victim", "offender", "detail", "extra"),
    AmendmentRow: ("reason", "extra"),
    RunRow: ("principal", "events", "anomalies", "detail", "extra"),
    UnknownRecordRow: ("body",),
}
"""The columns in which a user may stand."""


class SubjectRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def day_after(self, day: date | None) -> date | None:
        """Return the first day with evidence after `day`, or of all; None when there is none."""
        found = []
        for row in EVIDENCE:
            column = row.__table__.c.day
            first = select(func.min(column))
            found.append((await self._connection.execute(first if day is None else first.where(column > day))).scalar_one())
        return min((one for one in found if one is not None), default=None)

    async def about(self, table: type[Base], day: date, principal: str) -> Sequence[Row]:
        """Return the records of a day in which the principal stands anywhere."""
        columns = table.__table__.c
        # A hash has no character with a meaning to LIKE.
        stands = or_(*(cast(columns[name], Text).like(f"%{principal}%") for name in PLACES[table]))
        time = [columns.time] if table is ViolationRow else []
        wanted = [columns.id, columns.day, *time, *(columns[name] for name in PLACES[table])]
        found = await self._connection.execute(select(*wanted).where(columns.day == day, stands))
        return [dict(row) for row in found.mappings()]

    async def remove(self, table: type[Base], row: Row) -> int:
        """Delete a record; the later words on a violation go with it."""
        columns = table.__table__.c
        removed = (await self._connection.execute(delete(table).where(columns.id == row["id"], columns.day == row["day"]))).rowcount
        if table is ViolationRow:
            words = delete(AmendmentRow).where(AmendmentRow.violation_id == row["id"])
            removed += (await self._connection.execute(words)).rowcount
        return int(removed)

    async def change(self, table: type[Base], row: Row, values: dict[str, Any]) -> int:  # Any: column values
        columns = table.__table__.c
        this = update(table).where(columns.id == row["id"], columns.day == row["day"])
        return int((await self._connection.execute(this.values(values))).rowcount)

    async def forget_mentions(self, time: datetime, ids: Collection[str]) -> None:
        """Drop these ids from the index of the hour of `time`; the hour, of which something changed, is indexed anew later."""
        hour = hour_number(time.astimezone(UTC).replace(minute=0, second=0, microsecond=0))
        await self._connection.execute(delete(MentionRow).where(MentionRow.hour == hour, MentionRow.value.in_(ids)))

    async def forget_sums(self) -> None:
        """Drop what was made of days that have changed since: it may count whom they do not name any more. It is made anew later."""
        row = RollupRow
        holds = set((await self._connection.execute(select(row.start).where(row.kind == DAY, row.is_done.is_(True)))).scalars())
        await self._connection.execute(delete(ViolationDayRow).where(ViolationDayRow.day.not_in({start.date() for start in holds})))

    async def remove_statements(self, principal: str) -> None:
        """Drop what workers said last where it names the principal; they say it anew within half a minute."""
        await self._connection.execute(delete(QueueStatementRow).where(cast(QueueStatementRow.deepest, Text).like(f"%{principal}%")))

    async def begin(self, forgetting: Forgetting) -> None:
        await self._connection.execute(ForgettingRow.__table__.insert(), asdict(forgetting))  # type: ignore[attr-defined]  # is a Table

    async def get(self, forgetting_id: str) -> Forgetting | None:
        row = (await self._connection.execute(select(ForgettingRow.__table__).where(ForgettingRow.id == forgetting_id))).one_or_none()
        return None if row is None else Forgetting(*row)

    async def advance(self, forgetting_id: str, removed: int, changed: int, finished_at: datetime | None) -> None:
        row = ForgettingRow
        await self._connection.execute(
            update(row)
            .where(row.id == forgetting_id)
            .values(removed=row.removed + removed, changed=row.changed + changed, finished_at=finished_at)
        )

    async def newest(self, limit: int) -> list[Forgetting]:
        """Return the newest forgettings, newest first."""
        found = await self._connection.execute(select(ForgettingRow.__table__).order_by(ForgettingRow.id.desc()).limit(limit))
        return [Forgetting(*row) for row in found]
