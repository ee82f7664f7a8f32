"""Every statement of rolling up: which spans are to be done, what their records say, and the marks that say what holds.

A span is marked first; what changes it meanwhile takes the mark away, and then nothing of it is published. On PostgreSQL a
transaction that had begun before the mark does not see it: all of these are waited for before anything is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.affected import Affected
from isolation_monitor.collector.distinct import Distinct
from isolation_monitor.collector.evidence.mentions import MENTIONED, SIDES
from isolation_monitor.collector.evidence.touching import touching
from isolation_monitor.collector.storage.database import insert_into
from isolation_monitor.collector.storage.days import hour_number
from isolation_monitor.collector.storage.models import ViolationCountRow, ViolationRow
from isolation_monitor.collector.storage.rollup_models import DAY, MentionRow, RollupRow, ViolationDayRow

LOCK_TIMEOUT_MS: Final = 80
"""Longer than this nobody shall queue behind our wait for the violations."""
_STREAM_ROWS: Final = 1_000
_KEY: Final = ("service", "fingerprint", "kind", "grade", "detector", "arm", "synthetic", "suppressed")
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)

_MENTIONS: Final = 5_000

# SQLite's times are text with six digits after the second: minutes begin at the 15th character.
_MICROSECONDS: Final = " + ".join(
    f"CAST(substr(time, {place}, {digits}) AS INTEGER) * {unit}"
    for place, digits, unit in ((15, 2, 60_000_000), (18, 2, 1_000_000), (21, 6, 1))
)
_EACH: Final = " UNION ".join(f"SELECT json_extract({side}, '$.{name}') AS value, at FROM here" for side in SIDES for name in MENTIONED)
_MENTION: Final = text(
    f"WITH here AS (SELECT victim, offender, {_MICROSECONDS} AS at FROM violations WHERE time >= :a AND time < :b) "
    f"INSERT OR IGNORE INTO violation_mentions (hour, value, offset_us) SELECT :hour, value, at FROM ({_EACH}) "
    "WHERE typeof(value) = 'text' AND length(value) <= 200 ORDER BY value, at"
)

_MENTIONED_HOURS: Final = text(
    "WITH RECURSIVE there(hour) AS (SELECT min(hour) FROM violation_mentions UNION ALL "
    "SELECT (SELECT min(m.hour) FROM violation_mentions m WHERE m.hour > there.hour) FROM there WHERE there.hour IS NOT NULL) "
    "SELECT hour FROM there WHERE hour IS NOT NULL"
)

Key = tuple[Any, ...]  # Any: values of the columns in _KEY
Packed = tuple[bytes, bytes, int, bool]
"""Principals and runs as `Distinct` packs them, the most that were active, and whether there may be more."""


@dataclass(frozen=True, slots=True)
class Span:
    """A UTC day, or an hour."""

    kind: str
    start: datetime

    @property
    def end(self) -> datetime:
        return self.start + (_DAY if self.kind == DAY else _HOUR)

    @property
    def hour(self) -> int:
        return hour_number(self.start)


class RollupRepository:
    """Statements on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def hours_with_violations(self, since: datetime, until: datetime) -> list[datetime]:
        row = ViolationCountRow
        found = await self._connection.execute(select(row.hour).where(row.hour >= since, row.hour < until).distinct())
        return list(found.scalars())

    async def done(self, kind: str, since: datetime | None = None, until: datetime | None = None) -> set[datetime]:
        """Return the beginnings of the spans whose sums hold."""
        row = RollupRow
        statement = select(row.start).where(row.kind == kind, row.is_done.is_(True))
        if since is not None:
            statement = statement.where(row.start >= since)
        if until is not None:
            statement = statement.where(row.start < until)
        return set((await self._connection.execute(statement)).scalars())

    async def begin(self, span: Span, token: str) -> None:
        values = {"kind": span.kind, "start": span.start, "token": token, "is_done": False}
        new = insert_into(self._connection, RollupRow).values(values)
        again = new.on_conflict_do_update(index_elements=["kind", "start"], set_={"token": token, "is_done": False})
        await self._connection.execute(again)

    async def wait_for_writers(self) -> None:
        """Return when every transaction that changed violations before has ended; those to come see the marks. For a moment only."""
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'"))
            await self._connection.execute(text("LOCK TABLE violations IN SHARE MODE"))

    async def finish(self, span: Span, token: str) -> bool:
        """Say that what was made of a span holds; False when its violations changed since it was begun."""
        row = RollupRow
        mine = update(row).where(row.kind == span.kind, row.start == span.start, row.token == token).values(is_done=True)
        return bool((await self._connection.execute(mine)).rowcount)

    # Days

    async def sums(self, span: Span) -> list[dict[str, Any]]:  # Any: column values
        """Return the rows of a day, but for whom they touched."""
        row = ViolationCountRow
        key = [getattr(row, name) for name in (*_KEY, "retracted")]
        statement = (
            select(
                *key, func.sum(row.records).label("records"), func.sum(row.violations).label("violations"),
                func.min(row.first).label("first"), func.max(row.last).label("last"),
                func.min(row.day).label("kept_from"), func.max(row.day).label("kept_to"),
            )
            .where(row.hour >= span.start, row.hour < span.end)
            .group_by(*key)
        )  # fmt: skip
        found = [dict(one) for one in (await self._connection.execute(statement)).mappings()]
        latest = await self._latest(found)
        for one in found:
            one["latest"] = latest.get((*_key_of(one), one["retracted"]), "")
        return found

    async def _latest(self, sums: list[dict[str, Any]]) -> dict[tuple[Any, ...], str]:  # Any: as above
        """Return the id of the newest record of each of these."""
        row, found = ViolationRow, {}
        retracted = row.retracted_at.is_not(None)
        columns = [getattr(row, name) for name in _KEY]
        for start in range(0, len(sums), 100):
            some = sums[start : start + 100]
            last = tuple_(row.service, row.fingerprint, row.time)
            statement = (
                select(*columns, retracted.label("retracted"), row.time, func.max(row.id).label("id"))
                .where(last.in_([(one["service"], one["fingerprint"], one["last"]) for one in some]))
                .where(*_within(some))
                .group_by(*columns, retracted, row.time)
            )
            newest: dict[tuple[Any, ...], datetime] = {}
            for *key, is_retracted, at, record_id in await self._connection.execute(statement):
                of = (*key, bool(is_retracted))
                if of not in newest or at > newest[of]:
                    newest[of], found[of] = at, record_id
        return found

    async def touched(self, since: datetime, until: datetime) -> AsyncIterator[list[tuple[Key, Sequence[Any]]]]:
        """Give whom the violations of a time touched, in portions; retracted ones touched nobody."""
        row = ViolationRow
        statement = select(*(getattr(row, name) for name in _KEY), *touching()).where(
            row.time >= since, row.time < until, row.retracted_at.is_(None)
        )
        async with self._connection.stream(statement) as found:
            async for some in found.partitions(_STREAM_ROWS):
                yield [(tuple(one[: len(_KEY)]), one[len(_KEY) :]) for one in some]

    async def publish(self, span: Span, sums: Iterable[dict[str, Any]], affected: Mapping[Key, Packed]) -> None:
        row = ViolationDayRow
        await self._connection.execute(delete(row).where(row.day == span.start.date()))
        nobody: Packed = (b"", b"", 0, False)
        values = []
        for one in sums:
            principals, runs, active, at_least = nobody if one["retracted"] else affected.get(_key_of(one), nobody)
            values.append(one | {"day": span.start.date(), "principals": principals, "runs": runs, "active": active, "at_least": at_least})
        if values:
            await self._connection.execute(row.__table__.insert(), values)  # type: ignore[attr-defined]  # is a Table

    # Hours

    async def time_after(self, since: datetime, until: datetime, records: int) -> datetime | None:
        """Return the time of the violation that follows the next `records` ones, later than theirs; None when there are not so many."""
        row = ViolationRow
        there = select(row.time).where(row.time >= since, row.time < until).order_by(row.time)
        last = (await self._connection.execute(there.offset(records - 1).limit(1))).scalar_one_or_none()
        if last is None:
            return None
        return (await self._connection.execute(there.where(row.time > last).limit(1))).scalar_one_or_none()

    async def mentioned_hours(self) -> list[int]:
        """Return every hour of the index: one seek each."""
        return [hour for (hour,) in await self._connection.execute(_MENTIONED_HOURS)]

    async def forget_mentions(self, hour: int) -> int:
        """Delete some thousand mentions of an hour, and return how many: 0 when there are none left."""
        some = select(MentionRow.value).where(MentionRow.hour == hour).order_by(MentionRow.value).offset(_MENTIONS).limit(1)
        beyond = (await self._connection.execute(some)).scalar_one_or_none()
        gone = delete(MentionRow).where(MentionRow.hour == hour, *([] if beyond is None else [MentionRow.value <= beyond]))
        return int((await self._connection.execute(gone)).rowcount)

    async def mention(self, span: Span, since: datetime, until: datetime) -> None:
        """Write who is mentioned in the violations from `since` to `until`, within the span."""
        times = {
            name: one.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds") for name, one in (("a", since), ("b", until))
        }
        await self._connection.execute(_MENTION, times | {"hour": span.hour})

    # What does not hold any more

    async def forget_stale_days(self) -> None:
        """Delete the sums of days that changed: whom they name may have been forgotten meanwhile."""
        row, held = ViolationDayRow, await self.done(DAY)
        there = set((await self._connection.execute(select(row.day).distinct())).scalars())
        if stale := there - {one.date() for one in held}:
            await self._connection.execute(delete(row).where(row.day.in_(stale)))

    async def forget_marks_before(self, start: datetime) -> None:
        await self._connection.execute(delete(RollupRow).where(RollupRow.start < start))


def _key_of(one: dict[str, Any]) -> Key:  # Any: as above
    return tuple(one[name] for name in _KEY)


def _within(sums: list[dict[str, Any]]) -> list[ColumnElement[bool]]:  # Any: as above
    """Return the condition that opens only the partitions of these; none where ids claim days that lie far apart."""
    first, last = min(one["kept_from"] for one in sums), max(one["kept_to"] for one in sums)
    return [ViolationRow.day.between(first, last)]


class Touched:
    """Whom the violations of one key touched in a day, in little room however many they are."""

    __slots__ = ("_active", "_at_least", "_principals", "_runs")

    def __init__(self) -> None:
        self._principals, self._runs = Distinct(), Distinct()
        self._active, self._at_least = 0, False

    def add(self, some: Affected) -> None:
        self._principals.add(some.principals)
        self._runs.add(some.runs)
        self._active = max(self._active, some.active)
        self._at_least = self._at_least or some.is_lower_bound

    def packed(self) -> Packed:
        return self._principals.packed(), self._runs.packed(), self._active, self._at_least
