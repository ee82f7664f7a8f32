"""On SQLite, the triggers that count new violations rest while whoever stores many of them counts these at once.

Locks: the file for a moment. Duration: none; nothing that is stored changes. PostgreSQL stays as it is.
"""

from __future__ import annotations

from alembic import op

revision = "20261123_counted_apart"
down_revision = "20261123_violation_pages_due"
branch_labels = None
depends_on = None

_TRIGGERS = ("violations_inserted", "violations_inserted_unroll")
_UNLESS = "NOT EXISTS (SELECT 1 FROM violation_rollups WHERE kind = 'apart')"


def upgrade() -> None:
    for name in _triggers():
        head, condition, body = _parts(name)
        _replace(name, f"{head} WHEN {_UNLESS}{f' AND ({condition})' if condition else ''} BEGIN{body}")


def downgrade() -> None:
    for name in _triggers():
        head, condition, body = _parts(name)
        before = condition.removeprefix(_UNLESS).removeprefix(" AND (").removesuffix(")") if condition != _UNLESS else ""
        _replace(name, f"{head}{f' WHEN {before}' if before else ''} BEGIN{body}")


def _triggers() -> tuple[str, ...]:
    return () if op.get_bind().dialect.name == "postgresql" else _TRIGGERS


def _parts(name: str) -> tuple[str, str, str]:
    """Return a trigger as it is: what comes before its condition, the condition, and its body."""
    found = op.get_bind().exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?", (name,))
    head, _, body = str(found.scalar_one()).partition("BEGIN")
    head, _, condition = head.partition(" WHEN ")
    return head.strip(), condition.strip(), body


def _replace(name: str, trigger: str) -> None:
    op.get_bind().exec_driver_sql(f"DROP TRIGGER {name}")
    op.get_bind().exec_driver_sql(trigger)
