"""Queue statements: who waits in each worker now, one row a worker.

Locks: none that anyone could wait for, the table is new. Duration: well under a second.
The downgrade drops what workers said last; they say it again within half a minute.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_queue_statements"
down_revision = "20261121_rollout_stages"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "queue_statements",
        sa.Column("service", sa.String(100), primary_key=True),
        sa.Column("instance", sa.String(200), primary_key=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("time", "received_at")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("users", "events", "bytes")),
        sa.Column("deepest", sa.JSON(), nullable=False),
    )
    op.create_index("ix_queue_statements_received", "queue_statements", ["received_at"])


def downgrade() -> None:
    op.drop_table("queue_statements")
