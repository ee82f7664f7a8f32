"""What every feature of one running collector shares; built by `app.create_app`, found on the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from isolation_monitor.collector.background import Nudge
from isolation_monitor.collector.body import BodyLimits
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.problems import Unavailable
from isolation_monitor.collector.settings import CollectorSettings
from isolation_monitor.collector.storage.database import Database

if TYPE_CHECKING:
    from isolation_monitor.collector.retention.domain import Disk
    from isolation_monitor.collector.rollouts.domain import RolloutEvent


@dataclass(frozen=True, slots=True)
class Runtime:
    settings: CollectorSettings
    database: Database
    metrics: CollectorMetrics
    clock: Clock
    harm: Nudge = field(default_factory=Nudge)
    """Nudged with a service's name when records or alerts arrived that may be harm."""
    rollouts_changed: Nudge = field(default_factory=Nudge)
    """Nudged with a service's name after each change of one of its rollouts; one task takes from it, the announcer."""
    rollout_listeners: list[Callable[[RolloutEvent], Awaitable[None]]] = field(default_factory=list)
    """Told of each change at least once, soon after it and in order; one that fails or hangs is told again later."""

    disk: Callable[[], Disk | None] = lambda: None
    """Says how full the disk of the store is; None where it is not ours to see."""

    @property
    def body_limits(self) -> BodyLimits:
        settings = self.settings
        return BodyLimits(settings.max_body_bytes, settings.max_inflated_bytes, settings.body_timeout_s)


def require_room(runtime: Runtime) -> None:
    """Let pass what may be written.

    Raises:
        Unavailable: the disk is as full as it may be; senders keep what they have and try again.
    """
    disk = runtime.disk()
    if disk is not None and disk.is_full:
        runtime.metrics.disk(disk.used_ratio)
        runtime.metrics.batch_refused("disk_full")
        raise Unavailable(
            f"the disk of the store is {disk.used_ratio:.0%} full, records are taken below {disk.limit:.0%}: make room there, "
            "or keep less (COLLECTOR_KEEP_DAYS, COLLECTOR_KEEP_BYTES)",
            retry_after_s=30,
        )


async def runtime_of(request: Request) -> Runtime:
    """Return the runtime of the application that serves `request`."""
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeDep = Annotated[Runtime, Depends(runtime_of)]
