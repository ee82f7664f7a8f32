"""What starts, what ends and what is checked: the monitor runs it around the application, and answers `/livez`, `/readyz`, `/startupz`."""

from __future__ import annotations

from chat.parts import Parts
from isolation_monitor.telemetry import IsolationMonitor

PREPARE_HANGS_AFTER_S = 5.0
"""Tables are made in a second; longer is a database that is away, or a worker that keeps the others waiting."""


def declare(monitor: IsolationMonitor, parts: Parts) -> None:
    """Declare the life of one worker."""
    database = parts.database
    monitor.lifecycle.phase("database", hangs_after_s=PREPARE_HANGS_AFTER_S)(database.prepare)
    monitor.lifecycle.cleanup("database")(database.close)

    # Before the ping, which takes a connection itself. In memory, so always as it is now.
    @monitor.lifecycle.check("pool", cache_s=0, required=False)
    async def pool() -> dict[str, int]:
        return database.pool_numbers()

    monitor.lifecycle.check("database")(database.ping)
