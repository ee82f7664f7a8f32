"""Every query on records. Inserts are idempotent by record id; what was already there is left as it is.

Statements of workers alone are replaced: nobody needs what was so before. They are bounded by time and by number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.affected import READ_FOR_AFFECTED, Affected
from isolation_monitor.collector.evidence.counts import totals_by_defect
from isolation_monitor.collector.evidence.domain import (
    Amendment,
    Group,
    Origin,
    QueueStatement,
    Run,
    RunQuery,
    RunRecord,
    Stored,
    Violation,
    ViolationQuery,
    ViolationRecord,
    amended,
)
from isolation_monitor.collector.evidence.rows import AMENDMENTS, TABLES, VIOLATIONS, Delivery, Table, Values
from isolation_monitor.collector.jsontext import dumps
from isolation_monitor.collector.storage.database import insert_into, serialize_amendments
from isolation_monitor.collector.storage.days import days_in
from isolation_monitor.collector.storage.models import (
    SILENT_AFTER,
    AmendmentRow,
    QueueStatementRow,
    RunRow,
    ViolationRow,
)

_SQLITE_ROWS: Final = (100, 10, 1)
"""Rows of one statement, so that few statements are prepared and kept."""
WORKERS_LIMIT: Final = 5_000
"""Workers of all services whose statements are kept; beyond it those that were silent longest are forgotten."""


class EvidenceRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def store(self, deliveries: Sequence[Delivery]) -> list[Stored]:
        """Insert what is new and bring the grades and retractions of the violations concerned up to date.

        Returns the numbers of each delivery; of a record that stands in several, the first has stored it.
        """
        if any(VIOLATIONS in one.rows or AMENDMENTS in one.rows for one in deliveries):
            await serialize_amendments(self._connection, exclusive=any(AMENDMENTS in one.rows for one in deliveries))
        accepted = [0] * len(deliveries)
        amended_ids: set[str] = set()
        for table in TABLES:
            # The first of each id, and whose it is.
            rows: dict[str, tuple[int, Values]] = {}
            for place, one in enumerate(deliveries):
                for row in one.rows.get(table, ()):
                    rows.setdefault(row[0], (place, row))
            if not rows:
                continue
            new = await self._insert(table, [row for _, row in rows.values()])
            for record_id in new:
                accepted[rows[record_id][0]] += 1
            if table is VIOLATIONS:
                amended_ids |= new
            elif table is AMENDMENTS:
                amended_ids.update(rows[record_id][1][1] for record_id in new)
        await self._amend(amended_ids)
        # In the order of their workers: two transactions must not come to two of them in opposite orders.
        statements = [(statement, origin, place) for place, one in enumerate(deliveries) for statement, origin in one.statements]
        for statement, origin, place in sorted(statements, key=lambda each: (each[1].service, each[1].instance)):
            accepted[place] += await self._replace(statement, origin)
        if statements:
            await self._forget_silent(max(origin.received_at for _, origin, _ in statements))
        return [Stored(number, len(one) - number) for number, one in zip(accepted, deliveries, strict=True)]

    async def _insert(self, table: Table, rows: list[Values]) -> set[str]:
        """Insert `rows`, none of them twice, and return the ids that were new."""
        # Two senders of the same ids in opposite orders would wait for each other for ever.
        rows.sort(key=itemgetter(0))
        if self._connection.dialect.name == "postgresql":
            arrays = tuple(list(column) for column in zip(*rows, strict=True))
            return set((await self._connection.exec_driver_sql(table.postgresql_insert, arrays)).scalars())
        new: set[str] = set()
        start = 0
        for size in _SQLITE_ROWS:
            while len(rows) - start >= size:
                values = tuple(chain.from_iterable(rows[start : start + size]))
                new.update((await self._connection.exec_driver_sql(table.sqlite_insert(size), values)).scalars())
                start += size
        return new

    async def _replace(self, statement: QueueStatement, origin: Origin) -> int:
        """Let a statement take the place of its worker's last one, and return 1 when it did: an older one does not."""
        row = QueueStatementRow
        new = insert_into(self._connection, row).values(asdict(statement) | asdict(origin))
        # Another id is another process under the same name and number, as in a container that was started again.
        newer = or_(row.id != new.excluded.id, row.sequence < new.excluded.sequence)
        columns = {column.name: new.excluded[column.name] for column in row.__table__.columns if not column.primary_key}
        upsert = new.on_conflict_do_update(index_elements=["service", "instance"], set_=columns, where=newer)
        return len((await self._connection.execute(upsert.returning(row.sequence))).all())

    async def _forget_silent(self, now: datetime) -> None:
        row = QueueStatementRow
        last = select(row.received_at).order_by(row.received_at.desc()).offset(WORKERS_LIMIT).limit(1).scalar_subquery()
        is_gone = or_(row.received_at < now - SILENT_AFTER, row.received_at <= last)
        # One that another batch is about to replace is not silent, and waiting for it could end in a deadlock.
        gone = select(row.service, row.instance).where(is_gone).with_for_update(skip_locked=True)
        await self._connection.execute(delete(row).where(tuple_(row.service, row.instance).in_(gone)))

    async def _amend(self, ids: set[str]) -> None:
        """Bring violations up to date with all that was ever said of them. Of most, nothing was."""
        if not ids:
            return
        some, given = "IN (SELECT value FROM json_each(?))", dumps(sorted(ids))
        if self._connection.dialect.name == "postgresql":
            # The text of an array of strings is read as JSON there, too.
            some = "IN (SELECT json_array_elements_text($1::text::json))"
        if (days := days_in(ids)) is not None:
            some += f" AND day IN ({', '.join(repr(day.isoformat()) for day in sorted(days))})"
        said = await self._connection.exec_driver_sql(f"SELECT DISTINCT violation_id FROM amendments WHERE violation_id {some}", (given,))
        for chunk in _chunks(sorted(said.scalars()), 500):
            found = await self._connection.execute(
                select(AmendmentRow.__table__).where(*_with_ids(AmendmentRow, AmendmentRow.violation_id, chunk))
            )
            # By service too: nobody's record may retract, or make graver, what another service has found.
            by_violation: dict[tuple[str, str], list[Amendment]] = {}
            for row in found:
                by_violation.setdefault((row.violation_id, row.service), []).append(_amendment(row))
            if not by_violation:
                continue
            grades = await self._connection.execute(
                select(ViolationRow.id, ViolationRow.day, ViolationRow.service, ViolationRow.grade_sent).where(
                    *_with_ids(ViolationRow, ViolationRow.id, {violation_id for violation_id, _ in by_violation})
                )
            )
            for violation_id, day, service, grade_sent in grades.all():
                if (violation_id, service) not in by_violation:
                    continue
                grade, retracted_at = amended(grade_sent, by_violation[violation_id, service])
                this = update(ViolationRow).where(ViolationRow.id == violation_id, ViolationRow.day == day)
                await self._connection.execute(this.values(grade=grade, retracted_at=retracted_at))

    async def violations(self, query: ViolationQuery) -> list[Violation]:
        """Return at most `query.limit` violations, newest first, ties by id."""
        statement = _narrowed(_page(ViolationRow, query), query)
        return [_violation(row) for row in await self._connection.execute(statement)]

    async def runs(self, query: RunQuery) -> list[Run]:
        """Return at most `query.limit` runs, newest first, ties by id."""
        statement = _page(RunRow, query)
        for column, value in (
            (RunRow.service, query.service),
            (RunRow.outcome, query.outcome),
            (RunRow.run_id, query.run_id),
            (RunRow.principal, query.principal),
        ):
            if value is not None:
                statement = statement.where(column == value)
        return [_run(row) for row in await self._connection.execute(_within(statement, RunRow, query))]

    async def run(self, record_id: str) -> Run | None:
        """Return the run with this record id."""
        days = days_in([record_id])
        statement = select(RunRow.__table__).where(RunRow.id == record_id, *([] if days is None else [RunRow.day.in_(days)])).limit(1)
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _run(row)

    async def groups(self, query: ViolationQuery) -> list[Group]:
        """Return the violations grouped by service and fingerprint, the group with the newest first; retracted ones are left out.

        At most `query.limit` groups. Their latest violations and users are read in two further queries, however many groups.
        """
        found = await totals_by_defect(self._connection, query)
        fingerprints = {one.fingerprint for one in found}
        # Only what says whom it touched: thousands of whole records would take seconds to unpack.
        row_type = ViolationRow
        rows = _narrowed(
            select(row_type.id, row_type.service, row_type.fingerprint, row_type.victim, row_type.offender, row_type.extra)
            .where(ViolationRow.retracted_at.is_(None), ViolationRow.fingerprint.in_(fingerprints))
            .order_by(ViolationRow.time.desc(), ViolationRow.id.desc())
            .limit(READ_FOR_AFFECTED),
            query,
        )
        newest_ids: dict[tuple[str, str], str] = {}
        affected: dict[tuple[str, str], Affected] = {}
        read = 0
        for row in await self._connection.execute(rows):
            read += 1
            key = (row.service, row.fingerprint)
            newest_ids.setdefault(key, row.id)
            affected.setdefault(key, Affected()).add(row.victim, row.offender, row.extra)
        whole = select(ViolationRow.__table__).where(*_with_ids(ViolationRow, ViolationRow.id, list(newest_ids.values())))
        latest = {(row.service, row.fingerprint): _violation(row) for row in await self._connection.execute(whole)}
        groups = []
        for total in found:
            key = (total.service, total.fingerprint)
            newest = latest.get(key) or await self._newest_of(key, query)
            if newest is None:
                # Its last record went between the two queries.
                continue
            users = affected.setdefault(key, Affected(is_lower_bound=True))
            if read >= READ_FOR_AFFECTED:
                users.is_lower_bound = True
            groups.append(Group(newest, total.grade, total.first, total.violations, total.records, users))
        return groups

    async def _newest_of(self, key: tuple[str, str], query: ViolationQuery) -> Violation | None:
        """Return the newest violation of a defect whose records lie beyond what was read for the defects before it."""
        statement = _narrowed(
            select(ViolationRow.__table__)
            .where(ViolationRow.retracted_at.is_(None), ViolationRow.service == key[0], ViolationRow.fingerprint == key[1])
            .order_by(ViolationRow.time.desc(), ViolationRow.id.desc())
            .limit(1),
            query,
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _violation(row)

    async def violation(self, violation_id: str) -> Violation | None:
        statement = (
            select(ViolationRow.__table__)
            .where(*_with_ids(ViolationRow, ViolationRow.id, [violation_id]))
            .order_by(ViolationRow.received_at)
            .limit(1)
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _violation(row)

    async def amendments(self, violation_id: str, service: str) -> list[Amendment]:
        """Return escalations and retractions of a violation, sent by its own service, oldest first."""
        statement = (
            select(AmendmentRow.__table__)
            .where(*_with_ids(AmendmentRow, AmendmentRow.violation_id, [violation_id]), AmendmentRow.service == service)
            .order_by(AmendmentRow.time, AmendmentRow.id)
            .limit(1000)
        )
        return [_amendment(row) for row in await self._connection.execute(statement)]


def _page(table: type[ViolationRow | RunRow], query: ViolationQuery | RunQuery) -> Any:  # Any: as below
    """Select one page in the order that is asked for, after the last row of the page before."""
    key = tuple_(table.time, table.id)
    order = (table.time, table.id) if query.is_oldest_first else (table.time.desc(), table.id.desc())
    statement = select(table.__table__).order_by(*order).limit(query.limit)
    if query.after is not None:
        # Compared as a pair: one seek in the index, wherever the page begins.
        last = tuple_(literal(query.after[0], table.time.type), literal(query.after[1]))
        statement = statement.where(key > last if query.is_oldest_first else key < last)
    return statement


def _within(statement: Any, table: type[ViolationRow | RunRow], query: ViolationQuery | RunQuery) -> Any:  # Any: as below
    if query.since is not None:
        statement = statement.where(table.time >= query.since)
    if query.until is not None:
        statement = statement.where(table.time < query.until)
    return statement


def _narrowed(statement: Any, query: ViolationQuery) -> Any:  # Any: a select of any columns keeps its type for no reader
    row = ViolationRow
    for column, value in (
        (row.service, query.service),
        (row.kind, query.kind),
        (row.grade, query.grade),
        (row.synthetic, query.synthetic),
        (row.detector, query.detector),
        (row.arm, query.arm),
        (row.fingerprint, query.fingerprint),
        (row.instance, query.instance),
        (row.suppressed, query.suppressed),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if query.retracted is not None:
        statement = statement.where(row.retracted_at.is_not(None) if query.retracted else row.retracted_at.is_(None))
    for field, value in (("principal", query.principal), ("run_id", query.run_id)):
        if value is not None:
            statement = statement.where(or_(*(side[field].as_string() == value for side in (row.victim, row.offender))))
    return _within(statement, row, query)


def _with_ids(table: type[ViolationRow | AmendmentRow], column: Any, ids: Collection[str]) -> list[ColumnElement[bool]]:
    """Return the conditions for rows about these violations. With the days that are known, only their partitions are opened."""
    # Any: a column of either table
    days = days_in(ids)
    return [column.in_(ids), *([] if days is None else [table.day.in_(days)])]


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _run(row: Row[Any]) -> Run:
    record = RunRecord(
        row.id, row.time, row.run_id, row.principal, row.outcome, row.duration_s, row.events, row.anomalies, row.detail, row.extra
    )
    return Run(record, row.service, row.instance, row.received_at)


def _amendment(row: Row[Any]) -> Amendment:
    return Amendment(row.id, row.time, row.type, row.violation_id, row.grade, row.reason, row.extra)


def _violation(row: Row[Any]) -> Violation:
    record = ViolationRecord(
        row.id, row.time, row.kind, row.grade_sent, row.detector, row.arm, row.synthetic, row.summary, row.fingerprint,
        # By name: tuples, which rows are, have a method called count.
        row._mapping["count"], row.resource, row.victim, row.offender, row.detail, row.extra,
    )  # fmt: skip
    return Violation(record, row.service, row.instance, row.received_at, row.grade, row.retracted_at)
