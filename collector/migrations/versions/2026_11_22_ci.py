"""CI: runs of test suites, and the sums that pages and metrics read.

Locks: none that anyone could wait for, the tables are new. Duration: well under a second.
The downgrade drops all reports; CI can send them again where it keeps its JUnit files.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "20261122_ci"
down_revision = "20261122_containers"
branch_labels = None
depends_on = None


def _when(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in names]


def _maybe(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.DateTime(timezone=True)) for name in names]


def _all(kind: sa.types.TypeEngine[Any], *names: str) -> list[sa.Column[Any]]:  # Any: of several types
    return [sa.Column(name, kind, nullable=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "ci_suites",
        sa.Column("name", sa.String(100), primary_key=True),
        *_when("created_at", "received_at"),
        *_all(sa.BigInteger(), "runs", "passed", "failed", "errors", "skipped"),
        *_maybe("reference_at"),
        *_all(sa.JSON(), "numbers", "recent"),
    )
    op.create_table(
        "ci_runs",
        sa.Column("id", sa.String(64), primary_key=True),
        *_all(sa.String(100), "suite"),
        *_when("started_at", "received_at"),
        *_all(sa.Boolean(), "is_reference"),
        *_all(sa.String(200), "branch"),
        *_all(sa.String(64), "commit"),
        *_all(sa.String(300), "repository"),
        *_all(sa.JSON(), "origin"),
        *_all(sa.Float(53), "duration_s"),
        *_all(sa.Integer(), "passed", "failed", "errors", "skipped", "flaky"),
        *_all(sa.Boolean(), "is_cut_off"),
        *_all(sa.JSON(), "resources"),
        *_all(sa.LargeBinary(), "results"),
    )
    op.create_index("ix_ci_runs_suite_started", "ci_runs", ["suite", "started_at", "id"])
    op.create_index("ix_ci_runs_suite_commit", "ci_runs", ["suite", "commit"])
    op.create_index("ix_ci_runs_started", "ci_runs", ["started_at", "id"])
    op.create_index("ix_ci_runs_received", "ci_runs", ["received_at"])
    op.create_table(
        "ci_tests",
        sa.Column("suite", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(16), primary_key=True),
        *_all(sa.Text(), "group", "name", "file"),
        *_when("first_seen_at", "last_seen_at"),
        *_all(sa.String(1), "last_result"),
        *_all(sa.BigInteger(), "passed", "failed", "skipped"),
        *_all(sa.Float(53), "duration_s", "longest_s"),
        *_all(sa.String(100), "history"),
        *_maybe("failing_since", "flaky_at"),
        sa.Column("flaky", sa.JSON()),
    )
    op.create_index("ix_ci_tests_suite_duration", "ci_tests", ["suite", "duration_s"])
    op.create_index("ix_ci_tests_flaky", "ci_tests", ["flaky_at"])
    op.create_index("ix_ci_tests_seen", "ci_tests", ["last_seen_at"])
    op.create_table(
        "ci_failures",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(16), primary_key=True),
        *_all(sa.String(100), "suite"),
        *_when("at"),
        *_all(sa.String(64), "commit"),
        *_all(sa.String(200), "branch"),
        *_all(sa.Text(), "group", "name"),
        *_all(sa.Boolean(), "is_flaky"),
        *_all(sa.String(30), "category"),
        *_all(sa.String(16), "fingerprint"),
        *_all(sa.Text(), "cause", "kind", "message", "detail"),
    )
    op.create_index("ix_ci_failures_suite_fingerprint_at", "ci_failures", ["suite", "fingerprint", "at"])
    op.create_index("ix_ci_failures_suite_key_at", "ci_failures", ["suite", "key", "at"])
    op.create_index("ix_ci_failures_at", "ci_failures", ["at"])
    op.create_table(
        "ci_failure_kinds",
        sa.Column("suite", sa.String(100), primary_key=True),
        sa.Column("fingerprint", sa.String(16), primary_key=True),
        *_all(sa.String(30), "category"),
        *_all(sa.Text(), "cause", "message", "example"),
        *_when("first_at"),
        *_all(sa.String(64), "first_commit", "first_run_id"),
        *_when("last_at"),
        *_all(sa.String(64), "last_commit", "last_run_id"),
        *_all(sa.BigInteger(), "runs", "failures"),
    )
    op.create_index("ix_ci_failure_kinds_last", "ci_failure_kinds", ["last_at"])
    op.create_table(
        "ci_days",
        sa.Column("suite", sa.String(100), primary_key=True),
        sa.Column("day", sa.Date(), primary_key=True),
        sa.Column("branch", sa.String(200), primary_key=True),
        *_all(sa.Boolean(), "is_reference"),
        *_all(sa.BigInteger(), "runs", "green", "passed", "failed"),
        *_all(sa.Float(53), "duration_s", "longest_s"),
    )
    op.create_index("ix_ci_days_day", "ci_days", ["day"])


def downgrade() -> None:
    for table in ("ci_days", "ci_failure_kinds", "ci_failures", "ci_tests", "ci_runs", "ci_suites"):
        op.drop_table(table)
