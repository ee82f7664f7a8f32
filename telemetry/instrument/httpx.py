"""httpx: see `httpx_clients.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isolation_monitor.telemetry.instrument.httpx_clients import install_library

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.instrument.integrations import Installed


def install(detection: Detection) -> Installed:
    """Hook the sync and the async client."""
    return install_library("httpx", detection)
