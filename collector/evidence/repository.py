"""Every query on records. Inserts are idempotent by record id; what was already there is left as it is.

Statements of workers alone are replaced: nobody needs what was so before. They are bounded by time and by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Row, and_, case, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.domain import (
    GRADE_ORDER,
    READ_FOR_AFFECTED,
    Affected,
    Amendment,
    Batch,
    Group,
    Origin,
    QueueStatement,
    Stored,
    Violation,
    ViolationQuery,
    ViolationRecord,
    amended,
)
from isolation_monitor.collector.storage.database import serialize_amendments
from isolation_monitor.collector.storage.models import (
    SILENT_AFTER,
    AmendmentRow,
    Base,
    QueueStatementRow,
    RunRow,
    UnknownRecordRow,
    ViolationRow,
)

Values = dict[str, Any]  # Any: column values

WORKERS_LIMIT: Final = 5_000
"""Workers of all services whose statements are kept; beyond it those that were silent longest are forgotten."""


class EvidenceRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def store(self, batch: Batch, origin: Origin) -> Stored:
        """Insert what is new and bring the grades and retractions of the violations concerned up to date."""
        if batch.violations or batch.amendments:
            await serialize_amendments(self._connection, exclusive=bool(batch.amendments))
        from_whom = asdict(origin)
        new = [
            await self._insert(
                ViolationRow, [asdict(r) | from_whom | {"grade_sent": r.grade, "retracted_at": None} for r in batch.violations]
            ),
            await self._insert(AmendmentRow, [asdict(r) | from_whom for r in batch.amendments]),
            await self._insert(RunRow, [asdict(r) | from_whom for r in batch.runs]),
            await self._insert(UnknownRecordRow, [asdict(r) | from_whom for r in batch.unknown]),
        ]
        await self._amend(new[0] | {r.violation_id for r in batch.amendments if r.id in new[1]})
        accepted = sum(len(ids) for ids in new) + await self._replace(batch.queues, origin)
        return Stored(accepted, len(batch) - accepted)

    async def _insert(self, table: type[Base], rows: list[Values]) -> set[str]:
        """Insert `rows`, each once, and return the ids that were new."""
        if not rows:
            return set()
        insert = postgresql.insert if self._connection.dialect.name == "postgresql" else sqlite.insert
        statement = insert(table).on_conflict_do_nothing(index_elements=["id"]).returning(table.__table__.c.id)
        # Two senders of the same ids in opposite orders would wait for each other for ever.
        rows.sort(key=lambda row: row["id"])
        return set((await self._connection.execute(statement, rows)).scalars())

    async def _replace(self, statements: Iterable[QueueStatement], origin: Origin) -> int:
        """Let each statement take the place of its worker's last one, and return how many did: an older one does not."""
        row, replaced = QueueStatementRow, 0
        insert = postgresql.insert if self._connection.dialect.name == "postgresql" else sqlite.insert
        for statement in statements:
            new = insert(row).values(asdict(statement) | asdict(origin))
            # Another id is another process under the same name and number, as in a container that was started again.
            newer = or_(row.id != new.excluded.id, row.sequence < new.excluded.sequence)
            columns = {column.name: new.excluded[column.name] for column in row.__table__.columns if not column.primary_key}
            upsert = new.on_conflict_do_update(index_elements=["service", "instance"], set_=columns, where=newer)
            replaced += len((await self._connection.execute(upsert.returning(row.sequence))).all())
        if replaced:
            last = select(row.received_at).order_by(row.received_at.desc()).offset(WORKERS_LIMIT).limit(1).scalar_subquery()
            is_gone = or_(row.received_at < origin.received_at - SILENT_AFTER, row.received_at <= last)
            # One that another batch is about to replace is not silent, and waiting for it could end in a deadlock.
            gone = select(row.service, row.instance).where(is_gone).with_for_update(skip_locked=True)
            await self._connection.execute(delete(row).where(tuple_(row.service, row.instance).in_(gone)))
        return replaced

    async def _amend(self, ids: set[str]) -> None:
        for chunk in _chunks(sorted(ids), 500):
            found = await self._connection.execute(select(AmendmentRow.__table__).where(AmendmentRow.violation_id.in_(chunk)))
            by_violation: dict[str, list[Amendment]] = {}
            for row in found:
                by_violation.setdefault(row.violation_id, []).append(_amendment(row))
            if not by_violation:
                continue
            grades = await self._connection.execute(
                select(ViolationRow.id, ViolationRow.grade_sent).where(ViolationRow.id.in_(by_violation))
            )
            for violation_id, grade_sent in grades.all():
                grade, retracted_at = amended(grade_sent, by_violation[violation_id])
                await self._connection.execute(
                    update(ViolationRow).where(ViolationRow.id == violation_id).values(grade=grade, retracted_at=retracted_at)
                )

    async def violations(self, query: ViolationQuery) -> list[Violation]:
        """Return at most `query.limit` violations, newest first, ties by id."""
        statement = select(ViolationRow.__table__).order_by(ViolationRow.time.desc(), ViolationRow.id.desc()).limit(query.limit)
        statement = _narrowed(statement, query)
        if query.after is not None:
            time, last_id = query.after
            statement = statement.where(or_(ViolationRow.time < time, and_(ViolationRow.time == time, ViolationRow.id < last_id)))
        return [_violation(row) for row in await self._connection.execute(statement)]

    async def groups(self, query: ViolationQuery) -> list[Group]:
        """Return the violations grouped by service and fingerprint, the group with the newest first; retracted ones are left out.

        At most `query.limit` groups. Their latest violations and users are read in two further queries, however many groups.
        """
        rank = func.max(case(GRADE_ORDER, value=ViolationRow.grade, else_=0))
        newest = func.max(ViolationRow.time)
        totals = (
            select(
                ViolationRow.service, ViolationRow.fingerprint, rank, newest, func.min(ViolationRow.time), func.sum(ViolationRow.count),
                func.count(),
            )
            .where(ViolationRow.retracted_at.is_(None))
            .group_by(ViolationRow.service, ViolationRow.fingerprint)
            .order_by(newest.desc(), ViolationRow.fingerprint)
            .limit(query.limit)
        )  # fmt: skip
        found = (await self._connection.execute(_narrowed(totals, query))).all()
        fingerprints = {row.fingerprint for row in found}
        rows = _narrowed(
            select(ViolationRow.__table__)
            .where(ViolationRow.retracted_at.is_(None), ViolationRow.fingerprint.in_(fingerprints))
            .order_by(ViolationRow.time.desc(), ViolationRow.id.desc())
            .limit(READ_FOR_AFFECTED),
            query,
        )
        latest: dict[tuple[str, str], Violation] = {}
        affected: dict[tuple[str, str], Affected] = {}
        read = 0
        for row in await self._connection.execute(rows):
            read += 1
            key = (row.service, row.fingerprint)
            latest.setdefault(key, _violation(row))
            affected.setdefault(key, Affected()).add(row.victim, row.offender, row.extra)
        grade_of = {order: grade for grade, order in GRADE_ORDER.items()}
        groups = []
        for service, fingerprint, order, _last, first, count, records in found:
            key = (service, fingerprint)
            if key not in latest:
                # Its newest record lies beyond what was read for the groups before it.
                break
            if read >= READ_FOR_AFFECTED:
                affected[key].is_lower_bound = True
            groups.append(Group(latest[key], grade_of[order], first, int(count), records, affected[key]))
        return groups

    async def violation(self, violation_id: str) -> Violation | None:
        row = (await self._connection.execute(select(ViolationRow.__table__).where(ViolationRow.id == violation_id))).one_or_none()
        return None if row is None else _violation(row)

    async def amendments(self, violation_id: str) -> list[Amendment]:
        """Return escalations and retractions of a violation, oldest first."""
        statement = (
            select(AmendmentRow.__table__)
            .where(AmendmentRow.violation_id == violation_id)
            .order_by(AmendmentRow.time, AmendmentRow.id)
            .limit(1000)
        )
        return [_amendment(row) for row in await self._connection.execute(statement)]


def _narrowed(statement: Any, query: ViolationQuery) -> Any:  # Any: a select of any columns keeps its type for no reader
    for column, value in (
        (ViolationRow.service, query.service),
        (ViolationRow.kind, query.kind),
        (ViolationRow.grade, query.grade),
        (ViolationRow.synthetic, query.synthetic),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if query.since is not None:
        statement = statement.where(ViolationRow.time >= query.since)
    if query.until is not None:
        statement = statement.where(ViolationRow.time < query.until)
    return statement


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _amendment(row: Row[Any]) -> Amendment:
    return Amendment(row.id, row.time, row.type, row.violation_id, row.grade, row.reason, row.extra)


def _violation(row: Row[Any]) -> Violation:
    record = ViolationRecord(
        row.id, row.time, row.kind, row.grade_sent, row.detector, row.arm, row.synthetic, row.summary, row.fingerprint,
        # By name: tuples, which rows are, have a method called count.
        row._mapping["count"], row.resource, row.victim, row.offender, row.detail, row.extra,
    )  # fmt: skip
    return Violation(record, row.service, row.instance, row.received_at, row.grade, row.retracted_at)
