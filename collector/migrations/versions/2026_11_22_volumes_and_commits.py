"""Containers: which volumes of nobody are unused, and since when. CI: runs found by how their commit begins, suites by repository.

A suite that runs of several repositories were mixed in goes on as that of the newest one; the others' next runs begin suites of their own.

Locks: `container_engines`, `ci_suites` and `ci_runs` exclusively, reads too, until the whole upgrade is through, which is one transaction:
with the migration that counts violations anew that is minutes. Reports and pages are answered 503 meanwhile, and reports are sent again.
On PostgreSQL commits are ordered by their bytes from then on, which rebuilds indexes and rewrites no row.
Duration: a second for 100,000 runs.
The downgrade forgets since when a volume is unused: a later upgrade begins to count anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_volumes_commits"
down_revision = "20261122_ci_tests"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("container_engines", sa.Column("unused_volumes", sa.JSON(), nullable=True))
    op.add_column("ci_suites", sa.Column("repository", sa.String(300), nullable=True))
    op.execute(
        "UPDATE ci_suites SET repository = (SELECT ci_runs.repository FROM ci_runs WHERE ci_runs.suite = ci_suites.name "
        "AND ci_runs.repository <> '' ORDER BY ci_runs.is_reference DESC, ci_runs.started_at DESC, ci_runs.id DESC LIMIT 1)"
    )
    op.drop_index("ix_ci_runs_suite_commit", "ci_runs")
    _order_commits('COLLATE "C"')
    op.create_index("ix_ci_runs_suite_commit", "ci_runs", ["suite", "commit", "started_at", "id"])
    op.create_index("ix_ci_runs_commit", "ci_runs", ["commit", "started_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_ci_runs_commit", "ci_runs")
    op.drop_index("ix_ci_runs_suite_commit", "ci_runs")
    _order_commits('COLLATE "default"')
    op.create_index("ix_ci_runs_suite_commit", "ci_runs", ["suite", "commit"])
    with op.batch_alter_table("ci_suites") as table:
        table.drop_column("repository")
    with op.batch_alter_table("container_engines") as table:
        table.drop_column("unused_volumes")


def _order_commits(how: str) -> None:
    # SQLite orders by bytes as it is.
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f'ALTER TABLE ci_runs ALTER COLUMN "commit" TYPE varchar(64) {how}')
