"""Pages that are due are kept with the violations they are for, until they were told.

Locks: none that anyone could wait for, the table is new. Duration: well under a second.
The downgrade drops what was not told yet, mostly nothing: it is told again by nobody.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261123_violation_pages_due"
down_revision = "20261123_violation_days"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "violation_pages_due",
        sa.Column("id", sa.String(32), primary_key=True),
        *(sa.Column(name, sa.String(100), nullable=False) for name in ("service", "kind")),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("example_id", sa.String(64), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("first", "last", "received_at")),
    )
    op.create_index("ix_violation_pages_due_received", "violation_pages_due", ["received_at"])


def downgrade() -> None:
    op.drop_table("violation_pages_due")
