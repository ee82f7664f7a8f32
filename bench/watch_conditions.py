"""Every condition on containers, CI, probes, start-up and clean-up caused for real, and how soon the collector is notified.

A real Docker engine with containers that die, hang and starve, runs of tests that `isomon ci report` sends, endpoints that go down, a
service whose workers hang, fail and leave something behind. The way is the one of users: the collector that follows all of it and the
service, Prometheus with the shipped rules and intervals, Alertmanager, its webhook to the collector. Measured is from the moment at
which the condition holds to the notification's arrival, less the `for:` of the rule and nothing else.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

from bench.rows import Row, p95
from bench.watch_causes import CAUSES, Cause
from bench.watch_world import World, world
from isolation_monitor.alerts import build
from isolation_monitor.alerts.model import Alert
from isolation_monitor.alerts.thresholds import Duration

NOTIFIED_S: Final = 30.0
QUICK: Final = ("ContainerOutOfMemory", "CiPassRateLow", "ProbeFailing", "StartupFailed")
"""What the short form causes: one of each kind."""
_LIMIT_S: Final = 120.0
"""So long beyond its rule's own wait a notification is waited for."""
_LOOK_S: Final = 2.0
"""The time is that of the arrival, which the collector keeps: looking often would only keep it from its work."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one condition: seconds from its beginning to its notification less `for_s`, or why there is none."""

    name: str
    for_s: float
    took_s: float | None
    problem: str = ""


async def rows(quick: bool = False) -> list[Row]:
    """Return the rows: the slowest, the 95th percentile, how many, and each by itself."""
    chosen = [cause for cause in CAUSES if not quick or cause.alert in QUICK]
    return rows_of(await asyncio.to_thread(_told, chosen))


def rows_of(told: Sequence[Told]) -> list[Row]:
    """Return the rows of what was told; a condition without a notification leaves the slowest without a value."""
    arrived = sorted((one for one in told if one.took_s is not None), key=lambda one: one.took_s or 0.0)
    took = [one.took_s for one in arrived if one.took_s is not None]
    missed = "; ".join(f"{one.name}: {one.problem}" for one in told if one.took_s is None)
    note = missed or (arrived[-1].name if arrived else "")
    return [
        Row("real condition notified, slowest", None if missed or not took else took[-1], "s", NOTIFIED_S, note=note),
        Row("real condition notified, p95", p95(took) if took else None, "s", note="the for: of rules not counted"),
        Row("real conditions caused and notified", len(took), "conditions", len(told), "higher"),
        *(Row(f"real {one.name}", one.took_s, "s", note=one.problem or (f"and for: {one.for_s:g} s" if one.for_s else "")) for one in told),
    ]


def _told(causes: Sequence[Cause]) -> list[Told]:
    found: list[Told] = []
    kinds = {cause.kind: threading.Lock() for cause in causes}
    with tempfile.TemporaryDirectory(prefix="bench-conditions-") as folder, world(Path(folder)) as everything:
        for turn in sorted({cause.turn for cause in causes}):
            together = [cause for cause in causes if cause.turn == turn]
            with ThreadPoolExecutor(len(together)) as pool:
                found += pool.map(lambda cause: _one(everything, cause, kinds[cause.kind]), together)
    return found


def _one(everything: World, cause: Cause, kind: threading.Lock) -> Told:
    """Cause one condition and wait for its notification, beside which the next one of its kind is caused."""
    alert = _rule(cause.alert)
    for_s = Duration(alert.for_).seconds if alert.for_ else 0.0
    try:
        with kind:
            since = cause.act(everything)
    except Exception as error:  # One that could not be caused must not take the others' answers along: it is told in its row.
        return Told(cause.name, for_s, None, f"not caused: {type(error).__name__}: {error}")
    expected = {"alertname": alert.name, "severity": alert.severity, "action": alert.action, **cause.labels}
    until = max(time.time(), since) + for_s + _LIMIT_S
    while (arrived := _arrived(everything, expected)) is None:
        if time.time() > until:
            return Told(cause.name, for_s, None, f"no notification within {for_s + _LIMIT_S:.0f} s")
        time.sleep(_LOOK_S)
    if arrived < since:
        return Told(cause.name, for_s, None, f"notified {since - arrived:.1f} s before it was caused")
    return Told(cause.name, for_s, max(0.0, arrived - since - for_s))


@cache
def _rule(name: str) -> Alert:
    return next(alert for alert in build.alerts() if alert.name == name)


def _arrived(everything: World, expected: dict[str, str]) -> float | None:
    """Return when the collector first had a notification with these labels, at the receiver of its action; Unix time.

    None: it had none, or is too busy to say; it is asked again.
    """
    try:
        items = everything.asked(f"/v1/alerts?alertname={expected['alertname']}&status=firing&limit=1000")["items"]
    except OSError:
        return None
    times = [
        datetime.fromisoformat(one["received_at"]).timestamp()
        for one in items
        if one["receiver"] == expected["action"] and expected.items() <= one["labels"].items()
    ]
    return min(times, default=None)
