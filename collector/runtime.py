"""What every feature of one running collector shares; built by `app.create_app`, found on the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from isolation_monitor.collector.body import BodyLimits
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.settings import CollectorSettings
from isolation_monitor.collector.storage.database import Database


@dataclass(frozen=True, slots=True)
class Runtime:
    settings: CollectorSettings
    database: Database
    metrics: CollectorMetrics
    clock: Clock

    @property
    def body_limits(self) -> BodyLimits:
        settings = self.settings
        return BodyLimits(settings.max_body_bytes, settings.max_inflated_bytes, settings.body_timeout_s)


async def runtime_of(request: Request) -> Runtime:
    """Return the runtime of the application that serves `request`."""
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeDep = Annotated[Runtime, Depends(runtime_of)]
