"""CI: what each test used, one test of a kind of failure by its key, and tests found by their key in whatever suite.

Locks: `ci_tests` against writes while its index is built; reports that come in meanwhile wait. The columns are empty and rewrite nothing.
Duration: well under a second for 100,000 tests.
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
    op.add_column("ci_failure_kinds", sa.Column("example_key", sa.String(16), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("ci_failure_kinds") as table:
        table.drop_column("example_key")
    op.drop_index("ix_ci_tests_key", "ci_tests")
    with op.batch_alter_table("ci_tests") as table:
        table.drop_column("resources")
