"""Sessions of people who signed in to the pages: who may look until when.

Locks: none that anyone could wait for, the table is new. Duration: well under a second.
The downgrade signs everybody out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_web_sessions"
down_revision = "20261122_evidence_by_day"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "web_sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("token_digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_web_sessions_expires", "web_sessions", ["expires_at"])


def downgrade() -> None:
    op.drop_table("web_sessions")
