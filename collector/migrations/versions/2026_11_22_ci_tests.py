"""CI: what each test used, one test of a kind of failure by its key, tests found by their key, runs by branch.

Locks: `ci_tests` and `ci_runs` against writes while their indexes are built; reports that come in meanwhile wait. The columns are empty
and rewrite nothing.
Duration: a second for 100,000 tests and as many runs.
The downgrade drops what the rows of tests say of resources. The results of the runs keep it, where an older version does not see it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_ci_tests"
down_revision = "20261122_probes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ci_tests", sa.Column("resources", sa.JSON(), nullable=True))
    op.create_index("ix_ci_tests_key", "ci_tests", ["key"])
    op.create_index("ix_ci_runs_suite_branch", "ci_runs", ["suite", "branch", "started_at", "id"])
    op.add_column("ci_failure_kinds", sa.Column("example_key", sa.String(16), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("ci_failure_kinds") as table:
        table.drop_column("example_key")
    op.drop_index("ix_ci_runs_suite_branch", "ci_runs")
    op.drop_index("ix_ci_tests_key", "ci_tests")
    with op.batch_alter_table("ci_tests") as table:
        table.drop_column("resources")
