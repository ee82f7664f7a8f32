"""Resource trend: memory, open files, threads, children or tasks that grow and grow.

Sees: every 10 seconds what the process holds. Over a sliding window (`trend_window_s`, at least 20 looks) it asks three
things: is the growth no accident (Mann-Kendall, one-sided, 1 in 10,000), is it steady (Theil-Sen: the median of the
slopes between all pairs, so that single jumps say nothing) and is it large enough to matter (a fifth, and a floor of
the resource's own). The first looks of a process are left out: start-up grows. So is growth that slows down, the second
half of the window to less than half of the first: a cache or a pool that fills comes to its end, a leak does not. Memory is
judged once the process is older than a whole window, and less what the monitor's own index of values holds.
Cannot see: growth slower than the window shows; which request is to blame; memory that a C library gives back late
looks like growth until it stops.
Cost: about 60 us every 10 seconds on the housekeeper's thread, and one count of tasks on the loop (0.25 ms per 1,000
tasks; above 10,000 it is left out). The test of a full window takes some milliseconds on the housekeeper's thread.
Precision: about 0.8: a cache that fills grows too. Grade: `hygiene`, at most once an hour per resource.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import erfc, sqrt
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.violations import Resource, Violation

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab

Point = tuple[float, float]
"""Seconds on some clock, and a value."""

LOOK_EVERY_S: Final = 10.0
FEWEST_POINTS: Final = 20
MOST_POINTS: Final = 120
WARM_UP_S: Final = 60.0
AGAIN_AFTER_S: Final = 3600.0
SIGNIFICANCE: Final = 1e-4
GROWTH_RATIO: Final = 0.2
SLOWING: Final = 0.5
"""Growth whose second half is slower than this share of its first one comes to an end."""
MOST_TASKS: Final = 10_000
_PROC: Final = Path("/proc/self")
FLOORS: Final[dict[str, float]] = {"memory": 32 * 2**20, "fds": 20, "threads": 10, "children": 5, "tasks": 50}
"""Growth within the window below these is none, whatever its ratio."""


class Trend(NamedTuple):
    """How values change with time. `growth` is the slope over the whole stretch, `ratio` that of the first level."""

    slope_per_s: float
    growth: float
    ratio: float
    p_value: float
    """How likely a series without any trend rises as steadily as this one."""
    is_slowing: bool = False


def trend(points: Sequence[Point]) -> Trend:
    """Return the trend of points in the order of time, by Theil-Sen and Mann-Kendall. O(n^2).

    >>> trend([(0, 5.0), (1, 6.0), (2, 7.0), (3, 8.0)]).slope_per_s
    1.0
    """
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return Trend(0.0, 0.0, 0.0, 1.0)
    score = sum((b[1] > a[1]) - (b[1] < a[1]) for at, a in enumerate(points) for b in points[at + 1 :])
    slope = _slope(points)
    growth = slope * (points[-1][0] - points[0][0])
    level = median(value - slope * (at - points[0][0]) for at, value in points)
    variance = _variance(len(points), [value for _, value in points])
    z = (score - 1) / sqrt(variance) if score > 0 and variance > 0 else 0.0
    middle = len(points) // 2
    is_slowing = _slope(points[middle:]) < SLOWING * _slope(points[: middle + 1])
    return Trend(slope, growth, growth / level if level > 0 else float(growth > 0), erfc(z / sqrt(2)) / 2, is_slowing)


def _slope(points: Sequence[Point]) -> float:
    pairs = [(a, b) for at, a in enumerate(points) for b in points[at + 1 :] if b[0] > a[0]]
    return median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs) if pairs else 0.0


def _variance(n: int, values: list[float]) -> float:
    """The variance of Mann-Kendall's score without a trend, corrected for equal values."""
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    ties = sum(t * (t - 1) * (2 * t + 5) for t in counts.values())
    return (n * (n - 1) * (2 * n + 5) - ties) / 18


def is_growth(resource: str, found: Trend) -> bool:
    """Return whether a trend is steady, no accident, does not come to its end, and is large enough for its resource."""
    return not found.is_slowing and found.p_value < SIGNIFICANCE and found.ratio > GROWTH_RATIO and found.growth > FLOORS[resource]


class ResourceTrend:
    """Looks at this process's own resources; asks the loop for its tasks."""

    def __init__(self, kit: Kit) -> None:
        self._registry = kit.registry
        self._reporter = kit.reporter
        self._switch = kit.switches[names.RESOURCE_TREND]
        self._window_s = kit.settings.trend_window_s
        # A longer window is looked at more seldom, so that the test stays small.
        self._every_s = max(LOOK_EVERY_S, self._window_s / MOST_POINTS)
        self._points: dict[str, deque[Point]] = {name: deque(maxlen=MOST_POINTS) for name in names.PROCESS_RESOURCE_NAMES}
        self._reported: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.own_bytes: Callable[[], float] = lambda: 0.0
        """What the monitor itself keeps by design and up to a limit: its growth is none of the application's."""
        self._tasks: int | None = None
        """Counted on the loop after each look, for the next one; None where there were too many to count."""
        self._process = os.getpid()
        self._started = self._looked_at = time.monotonic()
        kit.housekeeper.every_second(self.tick)

    def serving(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note whose tasks are counted."""
        self._loop = loop

    def tick(self, now: float) -> None:
        """Look when it is time; called about once a second by the housekeeper."""
        if not self._switch.is_on or now - self._looked_at < self._every_s:
            return
        self._looked_at = now
        try:
            if self._process != os.getpid():
                # Forked: what the parent held is no trend of ours.
                self._process, self._started = os.getpid(), now
                for points in self._points.values():
                    points.clear()
            held = _held()
            if self._tasks is not None:
                held["tasks"] = float(self._tasks)
            for resource, value in held.items():
                self.seen(resource, now, value)
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._count_tasks)
        except RuntimeError:
            # The loop was closed in between.
            self._loop = None
        except Exception as error:
            self._reporter.check_failed(names.RESOURCE_TREND, "housekeeper", error)

    def seen(self, resource: str, now: float, value: float) -> None:
        """Take one look at a resource into account, and judge what the window shows."""
        self._registry.gauge(names.PROCESS_RESOURCES, resource=resource).set(value)
        points = self._points[resource]
        if now - self._started < WARM_UP_S:
            return
        while points and now - points[0][0] > self._window_s:
            points.popleft()
        points.append((now, value - self.own_bytes() if resource == "memory" else value))
        # Caches of a service that has just begun fill for minutes; files, threads and tasks have no such excuse.
        fills = resource == "memory" and now - self._started < WARM_UP_S + self._window_s
        if fills or len(points) < FEWEST_POINTS:
            return
        found = trend(list(points))
        if is_growth(resource, found) and now - self._reported.get(resource, -AGAIN_AFTER_S) >= AGAIN_AFTER_S:
            self._reported[resource] = now
            self._reporter.report(self._violation(resource, found, points[-1][0] - points[0][0], value))
        else:
            self._reporter.checked(names.RESOURCE_TREND)

    def plant(self, lab: Lab) -> None:
        planted = self._violation("children", trend([(n * LOOK_EVERY_S, 10.0 + n) for n in range(FEWEST_POINTS)]), 190.0, 29.0)
        # It has no side that could tell.
        planted.synthetic = True
        self._reporter.report(planted, lab.request(of_offender=True))

    def _violation(self, resource: str, found: Trend, window_s: float, value: float) -> Violation:
        return Violation(
            kind=names.RESOURCE_TREND,
            grade="hygiene",
            summary=f"{resource} grew steadily by {found.ratio:.0%} within {window_s / 60:.0f} minutes",
            resource=Resource(
                "process",
                resource,
                {
                    "value": value,
                    "growth": round(found.growth, 1),
                    "growth_per_hour": round(found.slope_per_s * 3600, 1),
                    "window_s": round(window_s),
                    "p_value": found.p_value,
                },
            ),
            victim=None,
            offender=None,
        )

    def _count_tasks(self) -> None:
        try:
            # Its weak set is walked as a whole: with too many tasks that would be a stall of our own.
            self._tasks = len(asyncio.all_tasks()) if _all_tasks_known() <= MOST_TASKS else None
        except Exception as error:
            self._reporter.check_failed(names.RESOURCE_TREND, "asyncio", error)


def _all_tasks_known() -> int:
    """Return about how many tasks there are, without walking them; 0 where asyncio does not tell."""
    tasks = getattr(asyncio.tasks, "_scheduled_tasks", None) or getattr(asyncio.tasks, "_all_tasks", None)
    return len(tasks) if tasks is not None else 0


def _held() -> dict[str, float]:
    """Return what this process holds now, as far as the system tells."""
    held: dict[str, float] = {"threads": float(threading.active_count())}
    try:
        held["memory"] = float(int((_PROC / "statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        held["fds"] = float(len(list((_PROC / "fd").iterdir())) - 1)
        held["children"] = float(len((_PROC / "task" / str(os.getpid()) / "children").read_bytes().split()))
    except (OSError, ValueError, IndexError):
        # Another system than Linux, or a part that this kernel does not show.
        pass
    return held
