"""Containers: which volumes of nobody are unused, and since when.

Locks: `container_engines` for the moment in which a column without a default is added; it has one row an engine.
Duration: milliseconds.
The downgrade forgets since when: a later upgrade begins to count anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_unused_volumes"
down_revision = "20261122_ci_tests"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("container_engines", sa.Column("unused_volumes", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("container_engines") as table:
        table.drop_column("unused_volumes")
