"""Probes: the last result of each endpoint that is checked, and the results that were different.

Locks: none that anyone could wait for, the tables are new. Duration: well under a second.
The downgrade drops both; the next checks tell the same again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_probes"
down_revision = "20261122_ci"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "probe_states",
        sa.Column("probe", sa.String(100), primary_key=True),
        sa.Column("service", sa.String(100), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
    )
    op.create_table(
        "probe_changes",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("probe", sa.String(100), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
    )
    op.create_index("ix_probe_changes_probe_at", "probe_changes", ["probe", "at"])


def downgrade() -> None:
    op.drop_table("probe_changes")
    op.drop_table("probe_states")
