"""Ids of runs: made in one place, and resolved to their thread from any worker.

A run is registered in the worker that performs it. Any other worker asks the database, which knows a run once its exchange is stored.
"""

from __future__ import annotations

from chat import store
from chat.database import Database
from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.resolution import Resolver


def build(monitor: IsolationMonitor, database: Database) -> Resolver:
    """Return what makes and resolves the ids of this worker's runs."""

    async def in_database(run_id: str) -> tuple[str, str] | None:
        async with database.session() as session:
            return await store.thread_of_run(session, run_id)

    return monitor.resolution(orchestrator=in_database)
