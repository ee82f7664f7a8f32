"""Starts and ends of processes are found by time, by service and by process, without a look at other records that are kept as they came.

Locks: writing to `unknown_records`, which is storing records that carry such ones, until the indexes are made; reading goes on.
Duration: a second for a million of these records.
The downgrade drops the indexes and no record.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261123_lifecycle"
down_revision = "20261122_suppressed_counts"
branch_labels = None
depends_on = None

_WHERE = sa.text("type IN ('startup', 'cleanup')")
_INDEXES = {
    "ix_unknown_records_lifecycle": ["time", "id"],
    "ix_unknown_records_lifecycle_service": ["service", "time", "id"],
    "ix_unknown_records_lifecycle_instance": ["instance", "time"],
}


def upgrade() -> None:
    for name, columns in _INDEXES.items():
        op.create_index(name, "unknown_records", columns, sqlite_where=_WHERE, postgresql_where=_WHERE)


def downgrade() -> None:
    for name in _INDEXES:
        op.drop_index(name, "unknown_records")
