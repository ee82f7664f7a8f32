"""Violations say in a column whether their service accepts them for now, and the hourly counts tell these apart: counted anew.

Violations are indexed by arrival first, then by service: who asks what came lately, of whatever service, reads no more than that.

Locks: `violations` and `violation_counts` exclusively until it is through: records are answered 503 and sent again.
Duration: about ten seconds for each million violations, two minutes on a slow disk.
The downgrade counts them anew, too, without that difference.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from isolation_monitor.collector.migrations.counting_2026_11_22 import Counting

revision = "20261122_suppressed_counts"
down_revision = "20261122_volumes_commits"
branch_labels = None
depends_on = None

_BEFORE, _AFTER = Counting(by_suppressed=False), Counting(by_suppressed=True)


def upgrade() -> None:
    _stop(_BEFORE)
    op.add_column("violations", sa.Column("suppressed", sa.Boolean(), server_default=sa.false(), nullable=False))
    detail = sa.column("detail", sa.JSON())
    violations = sa.table("violations", detail, sa.column("suppressed", sa.Boolean()))
    op.execute(violations.update().where(detail["suppressed"].as_string().is_not(None)).values(suppressed=True))
    _count_anew(_AFTER)
    op.drop_index("ix_violations_service_received", "violations")
    op.create_index("ix_violations_received_service", "violations", ["received_at", "service"])


def downgrade() -> None:
    op.drop_index("ix_violations_received_service", "violations")
    op.create_index("ix_violations_service_received", "violations", ["service", "received_at"])
    _stop(_AFTER)
    op.drop_column("violations", "suppressed")
    _count_anew(_BEFORE)


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _stop(counting: Counting) -> None:
    for statement in counting.end(is_postgresql=_is_postgresql()):
        # On PostgreSQL this locks the table until the commit: nothing comes that neither the recount nor a trigger counts.
        op.get_bind().exec_driver_sql(statement)
    op.drop_table("violation_counts")


def _count_anew(after: Counting) -> None:
    texts = {"service": 100, "fingerprint": 64, "kind": 100, "grade": 20, "detector": 100, "arm": 20}
    flags = [name for name in ("synthetic", "retracted", "suppressed") if name in after.key]
    op.create_table(
        "violation_counts",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.String(size), nullable=False) for name, size in texts.items()),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in flags),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("records", "violations")),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("first", "last")),
        sa.PrimaryKeyConstraint(*after.key),
        sqlite_with_rowid=False,
    )
    op.get_bind().exec_driver_sql(after.recount(is_postgresql=_is_postgresql()))
    op.create_index("ix_violation_counts_hour", "violation_counts", ["hour"])
    for statement in after.begin(is_postgresql=_is_postgresql()):
        op.get_bind().exec_driver_sql(statement)
