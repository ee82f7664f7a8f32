"""Violations are summed up by the day, with whom they touched, and found by user, run and request; a store tells `suppressed` by itself.

Tables and triggers only: what is stored is summed up afterwards, by the replica that leads, while all questions are answered as before.

Locks: `violations` exclusively until it is through: records are answered 503 and sent again.
Duration: under a second on SQLite; on PostgreSQL the index takes about a minute for each million violations.
The downgrade drops what was made from records, and nothing else.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261123_violation_days"
down_revision = "20261123_lifecycle"
branch_labels = None
depends_on = None

_SIDES = ("victim", "offender")
_IDS = ("principal", "run_id", "request_id")
_MENTIONED = ", ".join(f"left({side} ->> '{name}', 200)" for name in _IDS for side in _SIDES)
_DAY = "DELETE FROM violation_rollups WHERE kind = 'day' AND start"
_HOUR = "DELETE FROM violation_rollups WHERE kind = 'hour' AND start"
_CHANGES = {"inserted": ("INSERT", ("new",)), "updated": ("UPDATE", ("old", "new")), "deleted": ("DELETE", ("old",))}


def upgrade() -> None:
    op.create_table(
        "violation_rollups",
        sa.Column("kind", sa.String(10), primary_key=True),
        sa.Column("start", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("is_done", sa.Boolean(), nullable=False),
        sqlite_with_rowid=False,
    )
    texts = {"service": 100, "fingerprint": 64, "kind": 100, "grade": 20, "detector": 100, "arm": 20}
    op.create_table(
        "violation_days",
        sa.Column("day", sa.Date(), primary_key=True),
        *(sa.Column(name, sa.String(size), primary_key=True) for name, size in texts.items()),
        *(sa.Column(name, sa.Boolean(), primary_key=True) for name in ("synthetic", "retracted", "suppressed")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("records", "violations")),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("first", "last")),
        sa.Column("latest", sa.String(64), nullable=False),
        *(sa.Column(name, sa.Date(), nullable=False) for name in ("kept_from", "kept_to")),
        sa.Column("active", sa.BigInteger(), nullable=False),
        sa.Column("at_least", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.LargeBinary(), nullable=False) for name in ("principals", "runs")),
    )
    op.create_index("ix_violation_days_fingerprint", "violation_days", ["fingerprint"])
    op.create_table(
        "violation_mentions",
        sa.Column("hour", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("value", sa.String(200), primary_key=True),
        sa.Column("offset_us", sa.BigInteger(), primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    for statement in _begin_postgresql() if _is_postgresql() else _begin_sqlite():
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in _end_postgresql() if _is_postgresql() else _end_sqlite():
        op.get_bind().exec_driver_sql(statement)
    for table in ("violation_mentions", "violation_days", "violation_rollups"):
        op.drop_table(table)


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _begin_postgresql() -> tuple[str, ...]:
    """Return what takes marks away, once a statement, what finds by mentioned ids, and what tells `suppressed`."""
    statements = []
    for done, (event, tables) in _CHANGES.items():
        rows = " UNION ALL ".join(f"SELECT time FROM {name}_rows" for name in tables)
        days = f"SELECT DISTINCT date_trunc('day', time, 'UTC') FROM ({rows}) changed"
        # In one order: two writers of late records must not wait for each other.
        locked = f"SELECT start FROM violation_rollups WHERE kind = 'day' AND start IN ({days}) ORDER BY start FOR UPDATE"
        statements += [
            _function(f"unroll_{done}_violations", f"{_DAY} IN ({locked}); RETURN NULL;"),
            _trigger(f"violations_{done}_unroll", event, "violations", tables, f"unroll_{done}_violations"),
        ]
    # Counts that expire before their records.
    days = "SELECT DISTINCT date_trunc('day', hour, 'UTC') FROM old_rows"
    statements += [
        _function("unroll_deleted_counts", f"{_DAY} IN ({days}); RETURN NULL;"),
        _trigger("violation_counts_deleted_unroll", "DELETE", "violation_counts", ("old",), "unroll_deleted_counts"),
        # A replica of a version that does not know the column writes beside this one while it is replaced.
        _function("tell_suppressed_violation", "NEW.suppressed := true; RETURN NEW;"),
        (
            "CREATE TRIGGER violations_tell_suppressed BEFORE INSERT ON violations FOR EACH ROW "
            "WHEN (NOT NEW.suppressed AND NEW.detail ->> 'suppressed' IS NOT NULL) EXECUTE FUNCTION tell_suppressed_violation()"
        ),
        f"CREATE INDEX ix_violations_mentioned ON violations USING gin (array_remove(ARRAY[{_MENTIONED}], NULL))",
        # What such a replica has written since the column came.
        "UPDATE violations SET suppressed = true WHERE NOT suppressed AND detail ->> 'suppressed' IS NOT NULL",
    ]
    return tuple(statements)


def _end_postgresql() -> tuple[str, ...]:
    statements = ["DROP INDEX ix_violations_mentioned"]
    for done in _CHANGES:
        statements += [f"DROP TRIGGER violations_{done}_unroll ON violations", f"DROP FUNCTION unroll_{done}_violations()"]
    return (
        *statements,
        "DROP TRIGGER violation_counts_deleted_unroll ON violation_counts",
        "DROP FUNCTION unroll_deleted_counts()",
        "DROP TRIGGER violations_tell_suppressed ON violations",
        "DROP FUNCTION tell_suppressed_violation()",
    )


def _function(name: str, body: str) -> str:
    return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN {body} END $body$"


def _trigger(name: str, event: str, table: str, tables: tuple[str, ...], function: str) -> str:
    referencing = " ".join(f"{one.upper()} TABLE AS {one}_rows" for one in tables)
    return f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {referencing} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"


def _begin_sqlite() -> tuple[str, ...]:
    """Return what takes marks away, row by row. Times are text with six digits after the second: cut, they are an hour or a day."""
    statements = []
    for done, (event, tables) in _CHANGES.items():
        rows = [name.upper() for name in tables]
        days = ", ".join(f"substr({row}.time, 1, 10) || ' 00:00:00.000000'" for row in rows)
        hours = ", ".join(f"substr({row}.time, 1, 13) || ':00:00.000000'" for row in rows)
        body = f"{_DAY} IN ({days}); {_HOUR} IN ({hours});"
        # Most violations come in the present hour, of which nothing was made: two looks cost less than two deletes.
        last = "(SELECT max(start) FROM violation_rollups WHERE kind = '{kind}')"
        is_late = f"WHEN {hours} <= {last.format(kind='hour')} OR {days} <= {last.format(kind='day')} " if event == "INSERT" else ""
        statements.append(f"CREATE TRIGGER violations_{done}_unroll AFTER {event} ON violations {is_late}BEGIN {body} END")
    body = f"{_DAY} = substr(OLD.hour, 1, 10) || ' 00:00:00.000000';"
    return (*statements, f"CREATE TRIGGER violation_counts_deleted_unroll AFTER DELETE ON violation_counts BEGIN {body} END")


def _end_sqlite() -> tuple[str, ...]:
    return (*(f"DROP TRIGGER violations_{done}_unroll" for done in _CHANGES), "DROP TRIGGER violation_counts_deleted_unroll")
