"""Records as rows: values in the order of the columns, as the driver of each database takes them.

The path that every record takes. Reading goes by SQLAlchemy's types; writing makes the same values by hand, which costs a
tenth. A test reads back by the one what the other wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import JSON, BigInteger, Boolean, Date, DateTime, Float, Integer
from sqlalchemy.types import TypeDecorator, TypeEngine

from isolation_monitor.collector.evidence.domain import (
    Amendment,
    Batch,
    Origin,
    QueueStatement,
    RunRecord,
    UnknownRecord,
    ViolationRecord,
)
from isolation_monitor.collector.new_violations import NewViolations
from isolation_monitor.collector.storage.days import day_in, day_of
from isolation_monitor.collector.storage.models import RECORD_KEY, AmendmentRow, Base, RunRow, UnknownRecordRow, ViolationRow

Values = tuple[Any, ...]  # Any: column values


_SQLITE_ROWS: Final = (100, 10, 1)
"""Rows of one statement, so that few statements are prepared and kept."""


class Times(Protocol):
    """How a database's driver takes times."""

    def moment(self, value: datetime) -> object: ...

    def day(self, value: date) -> object: ...


class Table:
    """One table of evidence: its columns in order, `id` first, and how rows are inserted into it."""

    def __init__(self, model: type[Base], columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        types = [model.__table__.c[name].type for name in columns]
        names = ", ".join(f'"{name}"' for name in columns)
        self._into = f"INSERT INTO {model.__tablename__} ({names})"
        self._ending = f"ON CONFLICT ({', '.join(RECORD_KEY)}) DO NOTHING"
        self._one = f"({', '.join('?' * len(columns))})"
        self._sqlite: dict[tuple[int, bool], str] = {}
        places = range(1, len(types) + 1)
        arrays = ", ".join(f"${place}::{_given(type_)}[]" for place, type_ in zip(places, types, strict=True))
        # Text becomes JSON on the way in.
        values = ", ".join(f"v{place}::json" if _is_json(type_) else f"v{place}" for place, type_ in zip(places, types, strict=True))
        sent = ", ".join(f"v{place}" for place in places)
        self.postgresql_insert: Final = f"{self._into} SELECT {values} FROM unnest({arrays}) AS sent({sent}) {self._ending} RETURNING id"
        """Takes one array for each column: any number of rows is one statement, planned once."""

    def sqlite_inserts(self, rows: Sequence[Values], *, is_told: bool = True) -> Iterator[tuple[str, Values]]:
        """Give statements for `rows`, each with its values; `is_told` lets them return the ids that were new.

        For many rows at once: each statement is a way to the driver's thread and back.
        """
        start = 0
        for size in _SQLITE_ROWS:
            while len(rows) - start >= size:
                yield self._sqlite_insert(size, is_told), tuple(chain.from_iterable(rows[start : start + size]))
                start += size

    def _sqlite_insert(self, rows: int, is_told: bool) -> str:
        if (rows, is_told) not in self._sqlite:
            told = " RETURNING id" if is_told else ""
            self._sqlite[rows, is_told] = f"{self._into} VALUES {', '.join([self._one] * rows)} {self._ending}{told}"
        return self._sqlite[rows, is_told]


def _plain(type_: TypeEngine[Any]) -> TypeEngine[Any]:  # Any: of whatever values
    return type_.impl_instance if isinstance(type_, TypeDecorator) else type_


def _is_json(type_: TypeEngine[Any]) -> bool:  # Any: as above
    return isinstance(_plain(type_), JSON)


def _given(type_: TypeEngine[Any]) -> str:  # Any: as above
    """Return PostgreSQL's name for what the driver is given."""
    plain = _plain(type_)
    for python, name in (
        *((DateTime, "timestamptz"), (Date, "date"), (Boolean, "boolean")),
        *((BigInteger, "bigint"), (Integer, "integer"), (Float, "float8")),
    ):
        if isinstance(plain, python):
            return name
    return "text"


VIOLATIONS: Final = Table(
    ViolationRow,
    (
        *("id", "service", "instance", "time", "received_at", "kind", "grade", "grade_sent", "detector", "arm", "synthetic", "summary"),
        *("fingerprint", "count", "resource", "victim", "offender", "detail", "extra", "retracted_at", "day", "suppressed"),
    ),
)
VIOLATION_DAY: Final = VIOLATIONS.columns.index("day")
AMENDMENTS: Final = Table(
    AmendmentRow, ("id", "violation_id", "type", "service", "instance", "time", "received_at", "grade", "reason", "extra", "day")
)
RUNS: Final = Table(
    RunRow,
    (
        *("id", "service", "instance", "time", "received_at", "run_id", "principal", "outcome", "duration_s", "events", "anomalies"),
        *("detail", "extra", "day"),
    ),
)
UNKNOWN: Final = Table(UnknownRecordRow, ("id", "type", "service", "instance", "time", "received_at", "body", "day"))
TABLES: Final = (VIOLATIONS, AMENDMENTS, RUNS, UNKNOWN)
"""In the order in which every transaction comes to them: two that went other ways would wait for each other for ever."""


@dataclass(slots=True)
class Delivery:
    """What one request asks to be kept, ready for the database. All of it is stored in one transaction, or nothing."""

    received_at: datetime
    rows: dict[Table, list[Values]] = field(default_factory=dict)
    statements: list[tuple[QueueStatement, Origin]] = field(default_factory=list)
    harmed: set[str] = field(default_factory=set)
    """Services whose rollouts are to be looked at once it is stored."""
    violated: dict[str, NewViolations] = field(default_factory=dict)
    """What is to be paged for once it is stored, by the id of its record."""
    raised: set[str] = field(default_factory=set)
    """Ids of violations whose grade rises by it."""
    places: dict[str, int] = field(default_factory=dict)
    """Where each id stands in its batch."""
    is_dated: bool = True
    """Whether the ids of all its violations tell their day: what is said of them is then kept under the same one."""

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values()) + len(self.statements)

    def halves(self) -> tuple[Delivery, Delivery]:
        """Return two deliveries that hold one half of the records each. Whoever knows a bad one is in here finds it so."""
        everything: list[tuple[Table | None, Any]] = [(table, row) for table, rows in self.rows.items() for row in rows]  # Any: either kind
        everything += [(None, statement) for statement in self.statements]
        middle = len(everything) // 2
        return self._of(everything[:middle]), self._of(everything[middle:])

    def _of(self, items: Iterable[tuple[Table | None, Any]]) -> Delivery:
        part = Delivery(self.received_at, violated=self.violated, raised=self.raised, places=self.places, is_dated=self.is_dated)
        for table, item in items:
            if table is None:
                part.statements.append(item)
            else:
                part.rows.setdefault(table, []).append(item)
        return part

    def any_place(self) -> int:
        """Return where a delivery of one record had it in its batch."""
        ids = [row[0] for rows in self.rows.values() for row in rows] + [statement.id for statement, _ in self.statements]
        return self.places.get(ids[0], 0) if ids else 0


def delivery(batches: Iterable[Batch], received_at: datetime, dialect: str) -> Delivery:
    """Return the records of the batches of one request as rows for the database of `dialect`."""
    times: Times = _Texts() if dialect == "sqlite" else _Themselves()
    made = Delivery(received_at)
    received = times.moment(received_at)
    undated: list[str] = []
    for batch in batches:
        sender = (batch.service, batch.instance)
        for table, rows in (
            (VIOLATIONS, [_violation(record, sender, received, times, undated) for record in batch.violations]),
            (AMENDMENTS, [_amendment(record, sender, received, times) for record in batch.amendments]),
            (RUNS, [_run(record, sender, received, times) for record in batch.runs]),
            (UNKNOWN, [_unknown(record, sender, received, times) for record in batch.unknown]),
        ):
            if rows:
                made.rows.setdefault(table, []).extend(rows)
        origin = Origin(batch.service, batch.instance, received_at)
        made.statements += [(statement, origin) for statement in batch.queues]
        made.places |= batch.places
        if batch.may_be_harm:
            made.harmed.add(batch.service)
        made.violated |= {
            r.id: NewViolations(batch.service, r.kind, r.count, r.id, r.time, r.time)
            for r in batch.violations
            # As the service counts them: not what its suppressions accept for now, nor what was planted (docs/decisions/0006).
            if r.grade != "hygiene" and not r.is_suppressed and not r.synthetic
        }
        made.raised.update(amendment.violation_id for amendment in batch.amendments if amendment.grade is not None)
    made.is_dated = not undated
    return made


Sender = tuple[str, str]


def _violation(r: ViolationRecord, sender: Sender, received: object, times: Times, undated: list[str]) -> Values:
    if (day := day_in(r.id)) is None:
        undated.append(r.id)
        day = day_of(r.id, r.time)
    return (
        r.id, *sender, times.moment(r.time), received, r.kind, r.grade, r.grade, r.detector, r.arm, r.synthetic, r.summary,
        r.fingerprint, r.count, _text_or_null(r.resource), _text_or_null(r.victim), _text_or_null(r.offender), _text(r.detail),
        _text(r.extra), None, times.day(day), r.is_suppressed,
    )  # fmt: skip


def _amendment(r: Amendment, sender: Sender, received: object, times: Times) -> Values:
    return (
        r.id,
        r.violation_id,
        r.type,
        *sender,
        times.moment(r.time),
        received,
        r.grade,
        r.reason,
        _text(r.extra),
        times.day(day_of(r.id, r.time, r.violation_id)),
    )


def _run(r: RunRecord, sender: Sender, received: object, times: Times) -> Values:
    return (
        r.id, *sender, times.moment(r.time), received, r.run_id, r.principal, r.outcome, r.duration_s, _text(r.events),
        _text(r.anomalies), _text(r.detail), _text(r.extra), times.day(day_of(r.id, r.time)),
    )  # fmt: skip


def _unknown(r: UnknownRecord, sender: Sender, received: object, times: Times) -> Values:
    return (r.id, r.type, *sender, times.moment(r.time), received, _text(r.body), times.day(day_of(r.id, r.time)))


_ENCODER: Final = msgspec.json.Encoder()


def _text(value: object) -> str:
    # Finite numbers only: they were looked at when the record came in.
    return "{}" if value == {} else _ENCODER.encode(value).decode()


def _text_or_null(value: object) -> str | None:
    return None if value is None else _text(value)


class _Themselves:
    def moment(self, value: datetime) -> object:
        return value

    def day(self, value: date) -> object:
        return value


class _Texts:
    """As SQLAlchemy writes them: without a zone, always with six digits after the point, so that texts sort as moments do."""

    def moment(self, value: datetime) -> object:
        utc = value if value.tzinfo is UTC else value.astimezone(UTC)
        # The offset is cut off: to take the zone away would make another moment first.
        return utc.isoformat(" ", "microseconds")[:26]

    def day(self, value: date) -> object:
        return value.isoformat()
