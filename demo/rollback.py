"""The end of the story: a bad release reaches half of the users, and is taken back with no one touching anything.

The release shares one agent among those who have it. Second 0 is the first harm: what a user saw, or the first record where the
rollback came before any user could see something.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from isolation_monitor.demo.collector_api import Collector, Json, unix
from isolation_monitor.demo.errors import StepFailedError
from isolation_monitor.demo.harm import prove
from isolation_monitor.demo.measures import delay
from isolation_monitor.demo.promql import Prometheus
from isolation_monitor.demo.users import Population
from isolation_monitor.telemetry import names

RELEASE: Final = "agents-v2"
"""The flag and the rollout; `examples/chat/faults.py` knows it."""
ALERT: Final = "RolloutRolledBack"
QUIET_S: Final = 4.0
"""So long no request of the variant: its traffic is zero. Prometheus reads the service each second."""
LOOK_BACK_S: Final = 120.0
_ON: Final = f'{names.GATE_REQUESTS.name}{{rollout="{RELEASE}",arm="on"}}'

Until = Callable[..., Awaitable[Any]]  # Any: whatever the step waits for


@dataclass(slots=True)
class Rollback:
    """What was measured, seconds from the first harm. None: not seen."""

    rollback_s: float | None = None
    variant_traffic_zero_s: float | None = None
    page_s: float | None = None
    reason: str | None = None
    harm_seen_by_user: bool = False


async def bad_release(
    collector: Collector, prometheus: Prometheus, users: Population, chat_url: str, service: str, until: Until, doing: Callable[[str], None]
) -> Rollback:
    """Start the rollout and follow it until nobody has the variant any more.

    Args:
        until: waits for what a function returns, `until(what, look)`, and fails the story after a deadline.
        doing: tells a person what is under way.

    Raises:
        StepFailedError: a step did not hold.
    """
    measured = Rollback()
    stages = [{"name": "half", "percent": 50, "soak": "1h"}, {"name": "full", "percent": 100}]
    began = time.time()
    doing("a bad release for half of the users")
    await collector.apply_rollout(RELEASE, {"rollout": RELEASE, "service": service, "stages": stages})
    await collector.take_step(RELEASE, "start", "the story's release")
    seeing = asyncio.create_task(prove("shared-agent", users, chat_url, since=began))
    try:
        await until("requests with the release", lambda: _some(prometheus))
        doing("the release is out; nobody touches anything from here on")
        state = await until("the rollback", lambda: _rolled_back(collector))
        proof = await seeing
    finally:
        seeing.cancel()
    records = [unix(item["time"]) for item in await collector.violations(since=began)]
    measured.harm_seen_by_user = proof.proven
    harms = [*records, *([proof.time] if proof.proven else [])]
    if not harms:
        raise StepFailedError(f"{RELEASE} was rolled back, and neither a user nor a record shows any harm: {state['reason']}")
    harm_at = min(harms)
    measured.reason = state["reason"]
    measured.rollback_s = delay(unix(state["changed_at"]), harm_at)
    doing("rolled back; waiting until nobody has the release")
    last_at = await until("the end of the release's traffic", lambda: _end_of_traffic(prometheus))
    measured.variant_traffic_zero_s = delay(last_at, harm_at)
    page_at = await until(f"the page {ALERT}", lambda: _page(collector, began))
    measured.page_s = delay(page_at, harm_at)
    return measured


async def _some(prometheus: Prometheus) -> bool | None:
    return True if await prometheus.value(f"sum({_ON})") else None


async def _rolled_back(collector: Collector) -> Json | None:
    state: Json = (await collector.rollout(RELEASE))["state"]
    return state if state["status"] == "rolled_back" else None


async def _end_of_traffic(prometheus: Prometheus) -> float | None:
    """Return when the last request of the variant was counted (Unix seconds), once there was none for a while."""
    grew, newest = 0.0, 0.0
    for series in await prometheus.raw(_ON, LOOK_BACK_S):
        newest = max(newest, series[-1].time)
        # Where it was over within a second, the first sample is the last one, too: it grew from nothing.
        before = 0.0
        for sample in series:
            if sample.value > before:
                grew = max(grew, sample.time)
            before = sample.value
    return grew if grew and newest - grew >= QUIET_S else None


async def _page(collector: Collector, since: float) -> float | None:
    pages = [n.received_at for n in await collector.notifications(since=since) if n.alertname == ALERT and n.status == "firing"]
    return min(pages, default=None)
