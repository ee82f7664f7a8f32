"""First tables: violations, amendments, runs, unknown records, alert notifications, rollouts, gate decisions.

Locks: none that anyone could wait for, the tables are new. Duration: well under a second.
The downgrade drops all evidence.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_first"
down_revision = None
branch_labels = None
depends_on = None


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _text(name: str, size: int | None = None, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text() if size is None else sa.String(size), nullable=nullable)


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.String(64), primary_key=True)


def upgrade() -> None:
    origin = ("service", 100), ("instance", 200)
    op.create_table(
        "violations",
        _id(),
        *(_text(name, size) for name, size in origin),
        _time("time"),
        _time("received_at"),
        _text("kind", 100),
        _text("grade", 20),
        _text("grade_sent", 20),
        _text("detector", 100),
        _text("arm", 20),
        sa.Column("synthetic", sa.Boolean(), nullable=False),
        _text("summary"),
        _text("fingerprint", 64),
        sa.Column("count", sa.BigInteger(), nullable=False),
        _json("resource", nullable=True),
        _json("victim", nullable=True),
        _json("offender", nullable=True),
        _json("detail"),
        _json("extra"),
        _time("retracted_at", nullable=True),
    )
    op.create_index("ix_violations_time_id", "violations", ["time", "id"])
    op.create_index("ix_violations_service_received", "violations", ["service", "received_at"])
    op.create_table(
        "amendments",
        _id(),
        _text("type", 20),
        _text("violation_id", 64),
        *(_text(name, size) for name, size in origin),
        _time("time"),
        _time("received_at"),
        _text("grade", 20, nullable=True),
        _text("reason"),
        _json("extra"),
    )
    op.create_index("ix_amendments_violation", "amendments", ["violation_id", "time"])
    op.create_table(
        "runs",
        _id(),
        *(_text(name, size) for name, size in origin),
        _time("time"),
        _time("received_at"),
        _text("run_id", 200),
        _text("principal", 64, nullable=True),
        _text("outcome", 100),
        sa.Column("duration_s", sa.Float(53), nullable=True),
        _json("events"),
        _json("anomalies"),
        _json("detail"),
        _json("extra"),
    )
    op.create_index("ix_runs_service_time", "runs", ["service", "time"])
    op.create_table(
        "unknown_records",
        _id(),
        _text("type", 100),
        *(_text(name, size) for name, size in origin),
        _time("time"),
        _time("received_at"),
        _json("body"),
    )
    op.create_index("ix_unknown_records_type_time", "unknown_records", ["type", "time"])
    op.create_table(
        "alert_notifications",
        _id(),
        _time("received_at"),
        _time("last_received_at"),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        _text("status", 20),
        _text("alertname", 200),
        _text("group_key"),
        _text("fingerprint", 64),
        _text("receiver", 200),
        _json("labels"),
        _json("annotations"),
        _time("starts_at"),
        _time("ends_at", nullable=True),
    )
    op.create_index("ix_alert_notifications_received_id", "alert_notifications", ["received_at", "id"])
    op.create_index("ix_alert_notifications_alertname", "alert_notifications", ["alertname"])
    op.create_table(
        "rollouts",
        sa.Column("name", sa.String(100), primary_key=True),
        _text("service", 100),
        _text("arm", 20, nullable=True),
        sa.Column("min_exposed_requests", sa.Integer(), nullable=False),
        sa.Column("min_owed_events", sa.Integer(), nullable=False),
        _time("started_at"),
        _time("failed_at", nullable=True),
        _text("failed_decision_id", 64, nullable=True),
    )
    op.create_table(
        "gate_decisions",
        _id(),
        sa.Column("rollout", sa.String(100), sa.ForeignKey("rollouts.name"), nullable=False),
        _time("as_of"),
        _text("verdict", 20),
        _json("answer"),
        _json("inputs"),
        _json("config"),
        _text("config_sha256", 64),
        _text("inputs_sha256", 64),
    )
    op.create_index("ix_gate_decisions_rollout_as_of", "gate_decisions", ["rollout", "as_of"])


def downgrade() -> None:
    for table in ("gate_decisions", "rollouts", "alert_notifications", "unknown_records", "runs", "amendments", "violations"):
        op.drop_table(table)
