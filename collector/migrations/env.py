"""Runs migrations on the connection that `storage.schema` hands over; Alembic loads this file by its path."""

from __future__ import annotations

from alembic import context

from isolation_monitor.collector.storage.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite cannot alter most things: batch mode copies the table.
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
# No transaction of its own: the caller has begun one, so a migration is applied whole or not at all.
context.run_migrations()
