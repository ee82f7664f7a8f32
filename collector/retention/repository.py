"""Every statement of retention: chunks on any database, partitions on PostgreSQL.

A partition goes in two steps: detaching takes the whole table for a moment (a few milliseconds) and is given up at once when others
hold it, since whoever waits for such a lock makes all behind it wait; dropping takes only what nobody sees any more. One that was
left over between the steps is found and dropped the next time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, inspect, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.storage.ci_models import CiDayRow, CiFailureKindRow, CiFailureRow, CiRunRow, CiSuiteRow, CiTestRow
from isolation_monitor.collector.storage.models import (
    EVIDENCE,
    Base,
    ContainerActionRow,
    ContainerEventRow,
    ContainerRow,
    DecisionRow,
    NotificationRow,
    RolloutEventRow,
    RolloutRow,
    ViolationCountRow,
)
from isolation_monitor.collector.storage.page_models import PageDueRow

Key = tuple[Any, ...]  # Any: values of key columns

LOCK_TIMEOUT_MS: Final = 80
"""Longer than this nobody shall queue behind our wait for a table."""
MOVE_TIMEOUT_S: Final = 60
"""Days without a leader leave many rows in the default partition; to move them takes longer than an answer may."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """A table and which of its rows go."""

    name: str
    table: type[Base]
    goes: ColumnElement[bool]


def expiring(first_kept: date, cutoff: datetime, today: date) -> list[Expiring]:
    """Return what expires. Counts go before the records they count; then these find nothing to subtract from."""
    found = [Expiring("violation_counts", ViolationCountRow, ViolationCountRow.day < first_kept)]
    for row in EVIDENCE:
        # An id may claim a day that never comes: such a record goes by its arrival.
        claims_too_much = (row.day > today + timedelta(days=2)) & (row.received_at < cutoff)  # type: ignore[attr-defined]
        found.append(Expiring(row.__tablename__, row, or_(row.day < first_kept, claims_too_much)))  # type: ignore[attr-defined]
    kept = select(RolloutRow.failed_decision_id).where(RolloutRow.failed_decision_id.is_not(None))
    told = select(RolloutEventRow.decision_id).where(RolloutEventRow.decision_id.is_not(None))
    nobody_needs = DecisionRow.id.not_in(kept) & DecisionRow.id.not_in(told)
    found.append(Expiring("alert_notifications", NotificationRow, NotificationRow.last_received_at < cutoff))
    # What is left where no Alertmanager is told any longer: whoever is told clears it himself, sooner.
    found.append(Expiring("violation_pages_due", PageDueRow, PageDueRow.received_at < cutoff))
    found.append(Expiring("gate_decisions", DecisionRow, (DecisionRow.as_of < cutoff) & nobody_needs))
    found.append(Expiring("container_events", ContainerEventRow, ContainerEventRow.received_at < cutoff))
    found.append(Expiring("container_actions", ContainerActionRow, ContainerActionRow.received_at < cutoff))
    # Those that are still there stay, however old.
    found.append(Expiring("containers", ContainerRow, ContainerRow.removed_at < cutoff))
    # A report of an old run that was sent late is kept as long as any other.
    found.append(Expiring("ci_runs", CiRunRow, CiRunRow.received_at < cutoff))
    found.append(Expiring("ci_failures", CiFailureRow, (CiFailureRow.at < cutoff) & CiFailureRow.run_id.not_in(select(CiRunRow.id))))
    found.append(Expiring("ci_tests", CiTestRow, CiTestRow.last_seen_at < cutoff))
    found.append(Expiring("ci_failure_kinds", CiFailureKindRow, CiFailureKindRow.last_at < cutoff))
    found.append(Expiring("ci_days", CiDayRow, CiDayRow.day < first_kept))
    found.append(Expiring("ci_suites", CiSuiteRow, CiSuiteRow.received_at < cutoff))
    return found


def _key(table: type[Base]) -> list[ColumnElement[Any]]:
    if table is ViolationCountRow:
        # An hour of a day at once: its rows are few, their key is long.
        return [table.__table__.c.day, table.__table__.c.hour]
    return list(inspect(table).primary_key)


class RetentionRepository:
    """Statements on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def oldest(self, what: Expiring, rows: int) -> list[Key]:
        """Return the keys of at most `rows` rows that go."""
        return [tuple(key) for key in await self._connection.execute(select(*_key(what.table)).where(what.goes).limit(rows))]

    async def remove(self, what: Expiring, keys: Sequence[Key]) -> int:
        """Delete these rows, if they still go, and return how many there were."""
        # Column by column: no planner makes a join of it. That finds combinations of the keys, too, such as one suite's name with
        # another's failure: of these only what goes by itself is deleted.
        matches = (column.in_({key[n] for key in keys}) for n, column in enumerate(_key(what.table)))
        return int((await self._connection.execute(delete(what.table).where(*matches, what.goes))).rowcount)

    async def day_rows(self) -> dict[date, int]:
        """Return how many violations each day has: what a day weighs where a database does not say it."""
        row = ViolationCountRow
        found = await self._connection.execute(select(row.day, func.sum(row.records)).group_by(row.day))
        return {day: int(records) for day, records in found}

    async def forget_counts(self, day: date) -> None:
        await self._connection.execute(delete(ViolationCountRow).where(ViolationCountRow.day == day))

    # SQLite

    async def vacuum(self, pages: int) -> int:
        """Give free pages at the file's end back to the file system; return how many are left. Files made without it keep them."""
        driver: Any = (await self._connection.get_raw_connection()).driver_connection  # Any: a driver without types
        # The pragma frees one page a step, and execute() makes one step only. A script makes all; it ends the transaction before.
        await driver.executescript(f"PRAGMA incremental_vacuum({pages})")
        return int((await self._connection.execute(text("PRAGMA freelist_count"))).scalar_one())

    async def sqlite_bytes(self) -> int:
        """Return the bytes in use: free pages are filled before the file grows."""
        values = [
            (await self._connection.execute(text(f"PRAGMA {what}"))).scalar_one() for what in ("page_count", "freelist_count", "page_size")
        ]
        return int((values[0] - values[1]) * values[2])

    # PostgreSQL

    async def partitions(self) -> dict[str, dict[date, Any]]:
        """Return by table the days that have a partition, with their bytes, indexes included."""
        found = await self._connection.execute(_PARTITIONS, {"tables": [row.__tablename__ for row in EVIDENCE]})
        days: dict[str, dict[date, Any]] = {row.__tablename__: {} for row in EVIDENCE}
        for table, name, size in found:
            if (day := _day(table, name)) is not None:
                days[table][day] = int(size)
        return days

    async def left_over(self) -> list[str]:
        """Return tables that were partitions: detached, not yet dropped."""
        found = await self._connection.execute(_LEFT_OVER)
        return [name for (name,) in found if any(_day(row.__tablename__, name) is not None for row in EVIDENCE)]

    async def add_partition(self, table: str, day: date) -> None:
        """Make the partition of a day, with the rows that came before it. Waits for locks for a moment only."""
        name, following = _name(table, day), day + timedelta(days=1)
        await self._brief_locks()
        await self._run(f"SET LOCAL statement_timeout = '{MOVE_TIMEOUT_S}s'")
        await self._run(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES)")
        # Rows of this day may have arrived while nobody led, in the default partition; attaching refuses while they are there. Writers
        # wait these milliseconds: one that had chosen the default partition before would be refused.
        await self._run(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        await self._run(f"LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE")
        await self._run(
            f"WITH moved AS (DELETE FROM ONLY {table}_default WHERE day >= '{day}' AND day < '{following}' RETURNING *) "
            f"INSERT INTO {name} SELECT * FROM moved"
        )
        await self._run(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{following}')")

    async def detach(self, table: str, day: date) -> None:
        await self._brief_locks()
        await self._run(f"ALTER TABLE {table} DETACH PARTITION {_name(table, day)}")

    async def drop(self, name: str) -> None:
        await self._brief_locks()
        await self._run(f"DROP TABLE IF EXISTS {name}")

    async def _brief_locks(self) -> None:
        await self._run(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'")

    async def _run(self, statement: str) -> None:
        # Names and days are made here, never taken from a request.
        await self._connection.exec_driver_sql(statement)


_PARTITIONS: Final = text(
    "SELECT parent.relname, child.relname, pg_total_relation_size(child.oid) FROM pg_inherits i "
    "JOIN pg_class child ON child.oid = i.inhrelid JOIN pg_class parent ON parent.oid = i.inhparent "
    "WHERE parent.relname = ANY(:tables) AND parent.relnamespace = current_schema()::regnamespace"
)
_LEFT_OVER: Final = text(
    "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relname ~ '_d[0-9]{8}$' "
    "AND c.relnamespace = current_schema()::regnamespace"
)


def _name(table: str, day: date) -> str:
    return f"{table}_d{day:%Y%m%d}"


def _day(table: str, name: str) -> date | None:
    found = re.fullmatch(rf"{table}_d(\d{{8}})", name)
    return None if found is None else datetime.strptime(found[1], "%Y%m%d").date()  # noqa: DTZ007 - a day, no moment
