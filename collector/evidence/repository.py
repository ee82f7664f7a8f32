"""Every query on records. Inserts are idempotent by record id; what was already there is left as it is.

Statements of workers alone are replaced: nobody needs what was so before. They are bounded by time and by number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from operator import itemgetter
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Row, delete, insert, literal, literal_column, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.affected import READ_FOR_AFFECTED, Affected
from isolation_monitor.collector.evidence.bulk import stored_in_bulk
from isolation_monitor.collector.evidence.counts import Part, kept_by, parts_of, totals_by_defect
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
from isolation_monitor.collector.evidence.mentions import by_index, mentioned, mentions, steps, stretches, times_of
from isolation_monitor.collector.evidence.rows import AMENDMENTS, TABLES, VIOLATION_DAY, VIOLATIONS, Delivery, Table, Values
from isolation_monitor.collector.evidence.touching import add_touched, touching
from isolation_monitor.collector.evidence.windows import is_counted, is_narrowed, is_walked_by_time, window_of
from isolation_monitor.collector.jsontext import dumps
from isolation_monitor.collector.new_violations import NewViolations, Pages, joined
from isolation_monitor.collector.storage.database import insert_into, serialize_amendments
from isolation_monitor.collector.storage.days import days_in
from isolation_monitor.collector.storage.models import (
    SILENT_AFTER,
    AmendmentRow,
    QueueStatementRow,
    RunRow,
    ViolationRow,
    counting,
    crossing,
)
from isolation_monitor.collector.storage.page_models import PageDueRow
from isolation_monitor.collector.storage.rollup_models import ViolationDayRow

T = TypeVar("T")

_TIMES: Final = 500
"""Times of violations that one statement asks for."""
_FEW_AMENDMENTS: Final = 100
WORKERS_LIMIT: Final = 5_000
"""Workers of all services whose statements are kept; beyond it those that were silent longest are forgotten."""


class EvidenceRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def store(self, deliveries: Sequence[Delivery], pages: Pages | None = None) -> tuple[list[Stored], list[NewViolations]]:
        """Insert what is new, bring the grades and retractions of the violations concerned up to date, and note what is to be told.

        Returns the numbers of each delivery; of a record that stands in several, the first has stored it. And what `pages` are to be
        given once all of this is on disk: what was stored before was paged for before.
        """
        if any(VIOLATIONS in one.rows or AMENDMENTS in one.rows for one in deliveries):
            await serialize_amendments(self._connection, exclusive=any(AMENDMENTS in one.rows for one in deliveries))
        accepted = [0] * len(deliveries)
        amended_ids: set[str] = set()
        new_violations: dict[str, int] = {}
        raised: set[str] = set()
        days: set[date] | set[str] | None = set()
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
                new_violations = {record_id: rows[record_id][0] for record_id in new}
                days = {rows[record_id][1][VIOLATION_DAY] for record_id in new} if all(one.is_dated for one in deliveries) else None
            elif table is AMENDMENTS:
                amending = [(deliveries[rows[record_id][0]], rows[record_id][1][1]) for record_id in new]
                amended_ids.update(violation_id for _, violation_id in amending)
                raised = {violation_id for one, violation_id in amending if violation_id in one.raised}
                days = None
        rose = await self._amend(amended_ids, days)
        # In the order of their workers: two transactions must not come to two of them in opposite orders.
        statements = [(statement, origin, place) for place, one in enumerate(deliveries) for statement, origin in one.statements]
        for statement, origin, place in sorted(statements, key=lambda each: (each[1].service, each[1].instance)):
            accepted[place] += await self._replace(statement, origin)
        if statements:
            await self._forget_silent(max(origin.received_at for _, origin, _ in statements))
        violated: list[NewViolations] = []
        if pages is not None:
            as_sent = (deliveries[place].violated.get(each) for each, place in new_violations.items() if each not in rose)
            # Of what was said more of than its record says, the row knows what it is now.
            as_amended = {each for each, has_risen in rose.items() if each in new_violations or (has_risen and each in raised)}
            violated = pages.noted(joined([*(one for one in as_sent if one is not None), *await self._to_page_for(as_amended)]))
            await self._keep_due(violated, max(one.received_at for one in deliveries))
        return [Stored(number, len(one) - number) for number, one in zip(accepted, deliveries, strict=True)], violated

    async def _to_page_for(self, ids: Collection[str]) -> list[NewViolations]:
        """Return of violations that were amended those that break isolation; no synthetic, retracted or suppressed ones."""
        row = ViolationRow
        found: list[NewViolations] = []
        for chunk in _chunks(sorted(ids), 500):
            columns = (row.service, row.kind, row.count.label("requests"), row.id, row.time)
            statement = select(*columns).where(*_with_ids(row, row.id, chunk), *counting(), crossing())
            found += [
                NewViolations(one.service, one.kind, one.requests, one.id, one.time, one.time)
                for one in await self._connection.execute(statement)
            ]
        return found

    async def _keep_due(self, violated: Sequence[NewViolations], received_at: datetime) -> None:
        """Insert the rows that remind of what is to be told, in the transaction of what it tells of."""
        rows = [
            {
                "id": due_id, "service": one.service, "kind": one.kind, "requests": one.count, "example_id": one.example_id,
                "first": one.first, "last": one.last, "received_at": received_at,
            }
            for one in violated
            for due_id in one.due_ids
        ]  # fmt: skip
        if rows:
            await self._connection.execute(insert(PageDueRow), rows)

    async def _insert(self, table: Table, rows: list[Values]) -> set[str]:
        """Insert `rows`, none of them twice, and return the ids that were new."""
        # Two senders of the same ids in opposite orders would wait for each other for ever.
        rows.sort(key=itemgetter(0))
        if table is VIOLATIONS and (stored := await stored_in_bulk(self._connection, rows)) is not None:
            return stored
        if self._connection.dialect.name == "postgresql":
            arrays = tuple(list(column) for column in zip(*rows, strict=True))
            return set((await self._connection.exec_driver_sql(table.postgresql_insert, arrays)).scalars())
        new: set[str] = set()
        for statement, values in table.sqlite_inserts(rows):
            new.update((await self._connection.exec_driver_sql(statement, values)).scalars())
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

    async def _amend(self, ids: set[str], days: Collection[date | str] | None) -> dict[str, bool]:
        """Bring violations up to date with all that was ever said of them, nothing of most; return these with whether they rose.

        `days` are those under which it is kept; None where they are to be read from the ids.
        """
        rose: dict[str, bool] = {}
        if not ids:
            return rose
        for chunk in _chunks(sorted(await self._said_of(ids, days_in(ids) if days is None else days)), 500):
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
                rose[violation_id] = grade != grade_sent
        return rose

    async def _said_of(self, ids: set[str], days: Collection[date | str] | None) -> set[str]:
        """Return those of `ids` that anything was ever said of; it is kept under one of `days`, or anywhere."""
        of_days = "" if days is None else f"day IN ({', '.join(sorted(repr(str(day)) for day in days))})"
        # Most days have few amendments: to read these takes less than to look for each id.
        few = await self._connection.exec_driver_sql(
            f"SELECT violation_id FROM amendments{of_days and ' WHERE '}{of_days} LIMIT {_FEW_AMENDMENTS + 1}"
        )
        if len(there := list(few.scalars())) <= _FEW_AMENDMENTS:
            return ids.intersection(there)
        some, given = "IN (SELECT value FROM json_each(?))", dumps(sorted(ids))
        if self._connection.dialect.name == "postgresql":
            # The text of an array of strings is read as JSON there, too.
            some = "IN (SELECT json_array_elements_text($1::text::json))"
        statement = f"SELECT DISTINCT violation_id FROM amendments WHERE violation_id {some}{of_days and ' AND '}{of_days}"
        return set((await self._connection.exec_driver_sql(statement, (given,))).scalars())

    async def violations(self, query: ViolationQuery) -> list[Violation]:
        """Return at most `query.limit` violations, newest first, ties by id."""
        is_postgresql = self._connection.dialect.name == "postgresql"
        if mentioned(query):
            return await (self._mentioned_by_key(query) if is_postgresql else self._mentioned_by_time(query))
        statement = _narrowed(_page(ViolationRow, query), query)
        # SQLite has one table: its index by time is as good where everything matches.
        if is_counted(query) and (is_postgresql or is_narrowed(query)):
            window = await window_of(self._connection, query)
            if window is None:
                return []
            row = ViolationRow
            if not is_postgresql and await is_walked_by_time(self._connection, query, window):
                # With a plus before it, SQLite knows no index for the service.
                service = literal_column(f"+{row.__tablename__}.service", row.service.type)
                statement = _narrowed(_page(row, query), replace(query, service=None)).where(service == query.service)
            statement = statement.where(row.time >= window.since, row.time < window.until)
            statement = statement.where(row.day.between(window.kept_from, window.kept_to))
        return [_violation(row) for row in await self._connection.execute(statement)]

    async def _mentioned_by_key(self, query: ViolationQuery) -> list[Violation]:
        """Return a page of what an index of PostgreSQL finds."""
        row = ViolationRow
        # Found first, then sorted: with both at once it would rather walk the index by time, as if each page began with a match.
        some = _narrowed(select(row.id, row.day, row.time).where(by_index(query)), query)
        found = some.cte("found").prefix_with("MATERIALIZED", dialect="postgresql")
        page = await self._connection.execute(_in_order(select(found.c.id), found.c, query))
        # Ordered here: asked for in an order, it would walk the index by time once more.
        whole = await self._connection.execute(select(row.__table__).where(*_with_ids(row, row.id, list(page.scalars()))))
        violations = [_violation(one) for one in whole]
        return sorted(violations, key=lambda one: (one.record.time, one.record.id), reverse=not query.is_oldest_first)

    async def _mentioned_by_time(self, query: ViolationQuery) -> list[Violation]:
        """Return a page of what SQLite's index of the hours that are over finds, and of what lies in others."""
        found: list[Violation] = []
        for stretch in await stretches(self._connection, query):
            if not stretch.is_indexed:
                found += await self._walk(replace(query, since=stretch.since, until=stretch.until, limit=query.limit - len(found)))
            else:
                for hours in steps(stretch, is_oldest_first=query.is_oldest_first):
                    times = await times_of(self._connection, query, hours)
                    for chunk in _chunks(times, _TIMES):
                        if len(found) < query.limit:
                            found += await self._walk(replace(query, limit=query.limit - len(found)), chunk)
                    if len(found) >= query.limit:
                        break
            if len(found) >= query.limit:
                break
        return found

    async def _walk(self, query: ViolationQuery, times: Sequence[datetime] | None = None) -> list[Violation]:
        statement = _narrowed(_page(ViolationRow, query), query)
        if times is not None:
            statement = statement.where(ViolationRow.time.in_(times))
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

        At most `query.limit` groups. Their latest violations and users are read in a few further queries, however many groups.
        """
        parts = await parts_of(self._connection, query)
        found = await totals_by_defect(self._connection, query, parts)
        about: dict[tuple[str, str], _About] = {(one.service, one.fingerprint): _About() for one in found}
        await self._look_up_days(parts, query, about)
        await self._read_touched(parts, query, about)
        ids = [one.latest for one in about.values() if one.latest]
        whole = select(ViolationRow.__table__).where(*_with_ids(ViolationRow, ViolationRow.id, ids))
        latest = {(row.service, row.fingerprint): _violation(row) for row in await self._connection.execute(whole)} if ids else {}
        groups = []
        for total in found:
            key = (total.service, total.fingerprint)
            newest = latest.get(key)
            if newest is None or newest.record.time < total.last:
                newest = await self._newest_of(key, total.last, query) or newest
            if newest is None:
                # Its last record went between the queries.
                continue
            groups.append(Group(newest, total.grade, total.first, total.violations, total.records, about[key].affected))
        return groups

    async def _look_up_days(self, parts: Iterable[Part], query: ViolationQuery, about: dict[tuple[str, str], _About]) -> None:
        """Take whom defects touched, and their latest violations, from the days that were summed up."""
        row = ViolationDayRow
        columns = (row.service, row.fingerprint, row.last, row.latest, row.principals, row.runs, row.active, row.at_least)
        for part in parts:
            if part.row is not row:
                continue
            some = row.fingerprint.in_({fingerprint for _, fingerprint in about})
            for one in await self._connection.execute(select(*columns).where(some, *part.conditions(query))):
                if (known := about.get((one.service, one.fingerprint))) is not None:
                    known.affected.join(one.principals, one.runs, one.active, one.at_least)
                    known.meet(one.last, one.latest)

    async def _read_touched(self, parts: Iterable[Part], query: ViolationQuery, about: dict[tuple[str, str], _About]) -> None:
        """Read whom defects touched in the times that were not summed up: from their newest records, up to a limit."""
        row = ViolationRow
        open_parts = [part for part in parts if part.row is not ViolationDayRow]
        if not open_parts or not about:
            return
        some = _narrowed(
            select(row.id, row.service, row.fingerprint, row.time, row.victim, row.offender, row.extra)
            .where(row.retracted_at.is_(None), row.fingerprint.in_({fingerprint for _, fingerprint in about}))
            .where(or_(*(part.between(row.time) for part in open_parts)), row.day.in_(await kept_by(self._connection, open_parts)))
            .order_by(row.time.desc(), row.id.desc())
            .limit(READ_FOR_AFFECTED),
            query,
        )
        # Outside, so that only what is within the limit is taken apart.
        newest = some.subquery("newest")
        columns = (newest.c.service, newest.c.fingerprint, newest.c.time, newest.c.id)
        read = 0
        for service, fingerprint, time, record_id, *ids in await self._connection.execute(select(*columns, *touching(newest.c))):
            read += 1
            if (known := about.get((service, fingerprint))) is not None:
                add_touched(known.affected, ids)
                known.meet(time, record_id)
        if read >= READ_FOR_AFFECTED:
            for known in about.values():
                known.affected.is_lower_bound = True

    async def _newest_of(self, key: tuple[str, str], last: datetime, query: ViolationQuery) -> Violation | None:
        """Return the newest violation of a defect, of which the counts know the time and nothing else was read."""
        row = ViolationRow
        statement = (
            select(row.__table__)
            .where(row.retracted_at.is_(None), row.service == key[0], row.fingerprint == key[1], row.time == last)
            .order_by(row.id.desc())
            .limit(1)
        )
        found = (await self._connection.execute(_narrowed(statement, query))).one_or_none()
        return None if found is None else _violation(found)

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


@dataclass(slots=True)
class _About:
    """What is known of a defect beside its sums."""

    affected: Affected = field(default_factory=Affected)
    latest: str = ""
    """The id of its newest violation that was met."""
    _last: tuple[datetime, str] | None = None

    def meet(self, at: datetime, record_id: str) -> None:
        if record_id and (self._last is None or (at, record_id) > self._last):
            self._last, self.latest = (at, record_id), record_id


def _in_order(statement: Any, of: Any, query: ViolationQuery) -> Any:  # Any: as below
    order = (of.time, of.id) if query.is_oldest_first else (of.time.desc(), of.id.desc())
    return _after(statement.order_by(*order).limit(query.limit), of, query)


def _page(table: type[ViolationRow | RunRow], query: ViolationQuery | RunQuery) -> Any:  # Any: as below
    """Select one page in the order that is asked for, after the last row of the page before."""
    order = (table.time, table.id) if query.is_oldest_first else (table.time.desc(), table.id.desc())
    return _after(select(table.__table__).order_by(*order).limit(query.limit), table, query)


def _after(statement: Any, of: Any, query: ViolationQuery | RunQuery) -> Any:  # Any: as below
    if query.after is None:
        return statement
    # Compared as a pair: one seek in the index, wherever the page begins.
    key, last = tuple_(of.time, of.id), tuple_(literal(query.after[0], of.time.type), literal(query.after[1]))
    return statement.where(key > last if query.is_oldest_first else key < last)


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
    statement = statement.where(*mentions(query))
    return _within(statement, row, query)


def _with_ids(table: type[ViolationRow | AmendmentRow], column: Any, ids: Collection[str]) -> list[ColumnElement[bool]]:
    """Return the conditions for rows about these violations. With the days that are known, only their partitions are opened."""
    # Any: a column of either table
    days = days_in(ids)
    return [column.in_(ids), *([] if days is None else [table.day.in_(days)])]


def _chunks(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
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
