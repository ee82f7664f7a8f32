"""uvicorn on wsproto: the same hook as in `uvicorn_pongs`, in a module that a host imports at another time, if at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isolation_monitor.telemetry.instrument.uvicorn_pongs import hook

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.instrument.integrations import Installed


def install(detection: Detection) -> Installed:
    """Wrap what hears the pongs."""
    return hook("wsproto_impl", "WSProtocol")
