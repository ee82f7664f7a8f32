"""What the settings make of the way of records: an outbox, with a spool where one is wanted."""

from __future__ import annotations

from collections.abc import Callable

from isolation_monitor.telemetry.collector_address import CollectorAddress
from isolation_monitor.telemetry.records.gravity import of_grade
from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder
from isolation_monitor.telemetry.settings import Settings


def make_outbox(settings: Settings, count: Callable[[str, int], None]) -> Outbox:
    """Return the outbox of a monitor. Touches no disk: that begins with the first record, or when the application serves."""
    wants_spool = bool(settings.spool_dir and settings.spool_bytes and settings.collector_url)
    return Outbox(
        settings.service,
        None,
        None,
        settings.queue_limit,
        count,
        collector=CollectorAddress.of(settings),
        folder=SpoolFolder(settings.spool_dir, settings.service) if wants_spool else None,
        spool_bytes=settings.spool_bytes,
        sync_from=of_grade(settings.spool_sync),
    )
