"""Which server a connection belongs to, of those whose connections can tell what arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isolation_monitor.telemetry.instrument import hypercorn_pongs, uvicorn_pongs

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.acknowledgements import Probe


def find(send: object) -> Probe | None:
    """Return the probe of the connection whose server's `send` this is; None where its server cannot be asked."""
    return uvicorn_pongs.find(send) or hypercorn_pongs.find(send)
