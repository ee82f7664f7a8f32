"""Staged rollouts: their file, state and soak time beside what is watched already, and the history of changes.

Locks: `rollouts` exclusively while columns are added; the table holds a row a rollout, and on PostgreSQL constant
defaults need no rewrite. Duration: well under a second.
The downgrade drops the history and forgets stages: rollouts are only watched again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261121_rollout_stages"
down_revision = "20261120_first"
branch_labels = None
depends_on = None

_TEXTS = (("status", 20, "running"), ("stage", 100, ""), ("stage_kind", 20, "percent"), ("actor", 200, ""))
_DOCUMENTS = ("spec", "triggers", "comparison")
_TIMES = ("stage_started_at", "changed_at", "soaked_at")
_NUMBERS = ("percent", "soaked_s")


def upgrade() -> None:
    for name in _DOCUMENTS:
        op.add_column("rollouts", sa.Column(name, sa.JSON(), nullable=True))
    for name, size, default in _TEXTS:
        op.add_column("rollouts", sa.Column(name, sa.String(size), nullable=False, server_default=default))
    op.add_column("rollouts", sa.Column("reason", sa.Text(), nullable=False, server_default=""))
    op.add_column("rollouts", sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
    for name in _NUMBERS:
        op.add_column("rollouts", sa.Column(name, sa.Float(53), nullable=False, server_default="0"))
    for name in _TIMES:
        op.add_column("rollouts", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "rollout_events",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False, unique=True),
        sa.Column("rollout", sa.String(100), sa.ForeignKey("rollouts.name"), nullable=False),
        sa.Column("service", sa.String(100), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        *(sa.Column(f"{end}_status", sa.String(20), nullable=False) for end in ("from", "to")),
        *(sa.Column(f"{end}_stage", sa.String(100), nullable=False) for end in ("from", "to")),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decision_id", sa.String(64), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("announce_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_index("ix_rollout_events_rollout_sequence", "rollout_events", ["rollout", "sequence"])
    op.create_index("ix_rollout_events_announced_at", "rollout_events", ["announced_at"])


def downgrade() -> None:
    op.drop_table("rollout_events")
    with op.batch_alter_table("rollouts") as table:
        for name in (*_TIMES, *_NUMBERS, "revision", "reason", *(name for name, _, _ in reversed(_TEXTS)), *_DOCUMENTS):
            table.drop_column(name)
