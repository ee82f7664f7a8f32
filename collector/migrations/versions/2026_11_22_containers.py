"""Containers of Docker engines: engines, containers, what happened to them, and what was done to them.

Locks: none that anyone could wait for, the tables are new. Duration: well under a second.
The downgrade forgets what happened to containers; what is there now is found again by the next collector that knows of it.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "20261122_containers"
down_revision = "20261122_web_sessions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "container_engines",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("engine_id", sa.String(100), nullable=False),
        sa.Column("is_up", sa.Boolean(), nullable=False),
        *(_moment(name) for name in ("since", "seen_at")),
        _moment("events_until", nullable=True),
        sa.Column("version", sa.String(100), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("dangling_volumes", sa.Integer(), nullable=True),
    )
    op.create_table(
        "containers",
        sa.Column("engine", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        _moment("updated_at"),
        _moment("removed_at", nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
    )
    op.create_index("ix_containers_removed", "containers", ["removed_at"])
    op.create_table(
        "container_events",
        sa.Column("id", sa.String(64), primary_key=True),
        *(_moment(name) for name in ("time", "received_at")),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("container_id", sa.String(64), nullable=True),
        sa.Column("container", sa.String(300), nullable=True),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("image", "owner")),
        sa.Column("actor", sa.String(200), nullable=True),
        sa.Column("host", sa.String(300), nullable=True),
        sa.Column("signal", sa.String(20), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(20), nullable=True),
        sa.Column("forced", sa.Boolean(), nullable=True),
        sa.Column("after_stop_s", sa.Float(53), nullable=True),
        sa.Column("found_by", sa.String(20), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
    )
    op.create_index("ix_container_events_time_id", "container_events", ["time", "id"])
    op.create_index("ix_container_events_kind_time", "container_events", ["kind", "time"])
    op.create_index("ix_container_events_received", "container_events", ["received_at"])
    op.create_table(
        "container_actions",
        sa.Column("id", sa.String(64), primary_key=True),
        *(_moment(name) for name in ("time", "received_at")),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("host", sa.String(300), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("container", sa.String(300), nullable=True),
        sa.Column("container_id", sa.String(64), nullable=True),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("signal", sa.String(20), nullable=True),
        sa.Column("forced", sa.Boolean(), nullable=False),
        sa.Column("result", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_index("ix_container_actions_time_id", "container_actions", ["time", "id"])
    op.create_index("ix_container_actions_received", "container_actions", ["received_at"])


def downgrade() -> None:
    for table in ("container_actions", "container_events", "containers", "container_engines"):
        op.drop_table(table)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
