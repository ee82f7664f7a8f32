"""Evidence by day: `day` joins the key of records, PostgreSQL cuts their tables by it, and triggers count violations by the hour.

Locks: the four tables of evidence exclusively until it is through: records are answered 503 and sent again.
Duration: well under a second without records, about a minute for each million of them.
The downgrade puts all days into one table again, keeps one record of each id, and loses the list of what was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa
from alembic import op

from isolation_monitor.collector.migrations.counting_2026_11_22 import Counting
from isolation_monitor.collector.storage.days import day_of

revision = "20261122_evidence_by_day"
down_revision = "20261122_queue_statements"
branch_labels = None
depends_on = None

_INDEXES = {
    "violations": {"ix_violations_time_id": ["time", "id"], "ix_violations_service_received": ["service", "received_at"]},
    "amendments": {"ix_amendments_violation": ["violation_id", "time"]},
    "runs": {"ix_runs_service_time": ["service", "time"]},
    "unknown_records": {"ix_unknown_records_type_time": ["type", "time"]},
}
_NEW_INDEXES = {
    "violations": {"ix_violations_service_fingerprint_time": ["service", "fingerprint", "time"]},
    "runs": {"ix_runs_time_id": ["time", "id"]},
}
_COPY_ROWS = 5_000
_AHEAD_DAYS = 7
_COUNTING = Counting(by_suppressed=False)


def upgrade() -> None:
    op.create_table(
        "violation_counts",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.String(size), nullable=False) for name, size in (("service", 100), ("fingerprint", 64), ("kind", 100))),
        *(sa.Column(name, sa.String(size), nullable=False) for name, size in (("grade", 20), ("detector", 100), ("arm", 20))),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("synthetic", "retracted")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("records", "violations")),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("first", "last")),
        sa.PrimaryKeyConstraint(*_COUNTING.key),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_violation_counts_hour", "violation_counts", ["hour"])
    op.create_table(
        "forgettings",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("removed", "changed")),
    )
    op.create_index("ix_alert_notifications_last_received", "alert_notifications", ["last_received_at"])
    op.create_index("ix_gate_decisions_as_of", "gate_decisions", ["as_of"])
    for table, indexes in _INDEXES.items():
        before, after = _set_aside(table, indexes), _new(table)
        days = _days(before)
        after.create(op.get_bind())
        if _is_postgresql():
            _partitions(table, _distinct(days))
        if table == "violations":
            # Before the rows come: what is there already is counted like what will come.
            _statements(_COUNTING.begin(is_postgresql=_is_postgresql()))
        names = ", ".join(f'"{column.name}"' for column in before.columns)
        op.execute(f"INSERT INTO {table} ({names}, day) SELECT b.*, d.day FROM {before.name} b JOIN {days} d ON d.id = b.id")
        op.drop_table(days)
        op.drop_table(before.name)
        for name, columns in (indexes | _NEW_INDEXES.get(table, {}) | {f"ix_{table}_day": ["day"]}).items():
            op.create_index(name, table, columns)


def downgrade() -> None:
    _statements(_COUNTING.end(is_postgresql=_is_postgresql()))
    for table, indexes in _INDEXES.items():
        every = indexes | _NEW_INDEXES.get(table, {}) | {f"ix_{table}_day": ["day"]}
        by_day = _set_aside(table, every)
        columns = [sa.Column(c.name, c.type, nullable=c.nullable) for c in by_day.columns if c.name != "day"]
        sa.Table(table, sa.MetaData(), *columns, sa.PrimaryKeyConstraint("id")).create(op.get_bind())
        names = ", ".join(f'"{column.name}"' for column in columns)
        # "WHERE true": without it SQLite reads ON CONFLICT as the join's condition.
        op.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {by_day.name} WHERE true ON CONFLICT DO NOTHING")
        op.drop_table(by_day.name)
        for name, of_columns in indexes.items():
            op.create_index(name, table, of_columns)
    op.drop_index("ix_gate_decisions_as_of", "gate_decisions")
    op.drop_index("ix_alert_notifications_last_received", "alert_notifications")
    op.drop_table("forgettings")
    op.drop_table("violation_counts")


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _statements(statements: Iterable[str]) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _set_aside(table: str, indexes: Iterable[str]) -> sa.Table:
    """Rename a table, take off what would be in the way of its successor's names, and return it as it is."""
    for name in indexes:
        op.drop_index(name, table)
    if _is_postgresql():
        op.drop_constraint(f"{table}_pkey", table)
    op.rename_table(table, f"{table}_before")
    return sa.Table(f"{table}_before", sa.MetaData(), autoload_with=op.get_bind())


def _new(table: str) -> sa.Table:
    before = sa.Table(f"{table}_before", sa.MetaData(), autoload_with=op.get_bind())
    return sa.Table(
        table,
        sa.MetaData(),
        *(sa.Column(column.name, column.type, nullable=column.nullable) for column in before.columns),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("id", "day"),
        postgresql_partition_by="RANGE (day)",
    )


def _days(before: sa.Table) -> str:
    """Make a table with the day of each record, and return its name."""
    bind, name = op.get_bind(), f"{before.name}_days"
    days = op.create_table(name, sa.Column("id", sa.String(64), primary_key=True), sa.Column("day", sa.Date(), nullable=False))
    time = sa.type_coerce(before.c.time, sa.DateTime(timezone=True))
    about = before.c.get("violation_id", sa.null())
    last = ""
    while True:
        statement = sa.select(before.c.id, time, about).where(before.c.id > last).order_by(before.c.id).limit(_COPY_ROWS)
        page = bind.execute(statement).all()
        if not page:
            return name
        last = page[-1][0]
        # SQLite keeps no zone: what it holds is UTC.
        rows = [{"id": key, "day": day_of(key, at if at.tzinfo else at.replace(tzinfo=UTC), of)} for key, at, of in page]
        bind.execute(days.insert(), rows)


def _distinct(days: str) -> set[date]:
    return set(op.get_bind().execute(sa.text(f"SELECT DISTINCT day FROM {days}")).scalars())


def _partitions(table: str, days: set[date]) -> None:
    today = datetime.now(UTC).date()
    known = {day for day in days if abs((today - day).days) <= 400}
    ahead = {today + timedelta(days=n) for n in range(-1, _AHEAD_DAYS + 1)}
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    for day in sorted(known | ahead):
        bounds = f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
        op.execute(f"CREATE TABLE {table}_d{day:%Y%m%d} PARTITION OF {table} FOR VALUES {bounds}")
