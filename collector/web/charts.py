"""Geometry of what the pages draw: bars of evidence and the history of 30 days. Plain values; templates make SVG of them.

Drawn on the server, so that they are there without JavaScript and print as they look. Lengths are units of the viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal

from isolation_monitor.collector.web.numbers import HISTORY_DAYS, SLOT_S, Slot

Json = Mapping[str, Any]  # Any: gate/v1
Look = Literal["good", "bad", "waiting"]

WIDTH: Final = 720.0
HEIGHT: Final = 190.0
_LEFT: Final = 46.0
_RIGHT: Final = 8.0
_TOP: Final = 10.0
_SCORE_BOTTOM: Final = 112.0
_BAR_TOP: Final = 126.0
_BAR_BOTTOM: Final = 166.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Evidence that is there, of what is needed."""

    label: str
    have: float
    need: float
    look: Look

    @property
    def width(self) -> float:
        """Return how much of the bar is full, 0-100; full only when all is there."""
        if self.need <= 0 or self.have >= self.need:
            return 100.0
        return max(0.0, min(99.0, 100 * self.have / self.need))


@dataclass(frozen=True, slots=True)
class Interval:
    """What is known of a number: its estimate, an interval that holds it, and the limit that it is held to."""

    label: str
    unit: str
    point: float
    low: float | None
    high: float | None
    limit: float
    look: Look
    says: str

    def at(self, value: float) -> float:
        """Return where a value lies on the bar, 0-100."""
        start, end = self.scale
        return 100 * (min(max(value, start), end) - start) / (end - start)

    @property
    def scale(self) -> tuple[float, float]:
        """Return the values at both ends of the bar: zero, the limit and the interval lie within."""
        values = [0.0, self.limit, self.point, *(value for value in (self.low, self.high) if value is not None)]
        start, end = min(values), max(values)
        room = (end - start or 1.0) * 0.12
        return (start - room if start < 0 else start), end + room


def evidence_bars(answer: Json, comparison: Json) -> tuple[list[Progress], list[Interval]]:
    """Return what a gate's answer holds against its limits: progress first, then intervals. What is not known is left out.

    `comparison` is how the decision compared; where nobody is held back there is no control, and the promises are the limits.
    Green is what lies within by a bound, and of which the gate does not say that it waits.
    """
    metrics, thresholds = answer.get("metrics") or {}, answer.get("thresholds") or {}
    by_state: dict[str, str] = {}
    for reason in answer.get("reasons") or ():
        trigger = str(reason.get("trigger"))
        by_state[trigger] = "fail" if "fail" in (reason.get("state"), by_state.get(trigger)) else "waiting"
    has_control = comparison.get("percent", 0) < 100
    progress = [
        _progress(label, metrics[have], needs[need])
        for label, have, needs, need in (
            ("exposed isolated requests", "exposed_isolated_requests", thresholds, "min_exposed_requests"),
            ("owed events", "owed_events", thresholds, "min_owed_events"),
            ("requests with the flag on", "canary_requests", metrics, "error_requests_needed"),
        )
        if have in metrics and needs.get(need)
    ]
    intervals: list[Interval] = []
    if "error_diff_pp" in metrics:
        low, high = metrics.get("error_diff_pp_low"), metrics.get("error_diff_pp_high")
        limit = comparison.get("error_margin_pp", 1.0) if has_control else 0.0
        look = _look(by_state.get("error_rate"), high is not None and high < limit)
        if has_control:
            says = f"difference of the error rates, on less off; more than {limit:g} points rolls back"
        else:
            says = f"error rate less the {_number(comparison.get('slo_error_percent'))} % that are promised; more rolls back"
        intervals.append(Interval("errors", "points", metrics["error_diff_pp"], low, high, limit, look, says))
    if "slow_share" in metrics:
        low = metrics.get("slow_share_low")
        look = _look(by_state.get("latency"), low is not None and metrics["slow_share"] * 100 <= 5)
        slow = "the control's 95th percentile and 10 %" if has_control else f"the promised {_number(comparison.get('slo_p95_s'))} s"
        says = f"share of requests slower than {slow}; more than 5 % rolls back"
        lowest = None if low is None else low * 100
        intervals.append(Interval("slow requests", "%", metrics["slow_share"] * 100, lowest, None, 5.0, look, says))
    if "canary_delivery_share" in metrics or "event_delivery_share" in metrics:
        lost = 100 - 100 * metrics.get("canary_delivery_share", metrics.get("event_delivery_share", 1.0))
        allowed = 100.0 - thresholds.get("delivery_floor_percent", 95)
        low = metrics.get("canary_lost_share_low")
        look = _look(by_state.get("delivery"), lost <= allowed)
        says = f"share of owed events that did not arrive; more than {allowed:g} % rolls back"
        intervals.append(Interval("lost events", "%", lost, None if low is None else low * 100, None, allowed, look, says))
    return progress, intervals


def _progress(label: str, have: float, need: float) -> Progress:
    return Progress(label, have, need, "good" if have >= need else "waiting")


def _look(state: str | None, clear: bool) -> Look:
    return "bad" if state == "fail" else "good" if clear and state is None else "waiting"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "–"


# --- history ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One slot of the history. `look` is good (100 all the time), bad (below at least once) or unseen."""

    x: float
    width: float
    look: Literal["good", "bad", "unseen"]
    says: str
    y: float | None
    bar_y: float
    bar_height: float


@dataclass(frozen=True, slots=True)
class Label:
    """Text beside an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class History:
    """The history of one service, ready to be drawn; `days` repeats it for a table."""

    service: str
    columns: Sequence[Column]
    lines: Sequence[str]
    scores: Sequence[Label]
    times: Sequence[Label]
    days: Sequence[Day]
    most: int
    violations: int
    measured: float | None


@dataclass(frozen=True, slots=True)
class Day:
    """One day in numbers. Shares are 0-1."""

    day: date
    lowest: float | None
    measured: float | None
    violations: int


def history(service: str, slots: Sequence[Slot]) -> History:
    """Return the drawing of one service's last 30 days."""
    step = (WIDTH - _LEFT - _RIGHT) / len(slots)
    lows = [slot.lowest for slot in slots if slot.lowest is not None]
    low = min([99.0, *(math.floor(value) - 0.0 for value in lows)])
    most = max((slot.violations for slot in slots), default=0)
    columns, lines, line = [], list[str](), list[str]()
    for number, slot in enumerate(slots):
        x = _LEFT + number * step
        y = None if slot.lowest is None else _score_y(slot.lowest, low)
        height = 0.0 if not slot.violations else max(3.0, (_BAR_BOTTOM - _BAR_TOP) * slot.violations / most)
        look: Literal["good", "bad", "unseen"] = "unseen" if slot.lowest is None else "good" if slot.lowest >= 100 else "bad"
        columns.append(Column(x, step, look, _says(slot), y, _BAR_BOTTOM - height, height))
        if y is None:
            lines, line = ([*lines, " ".join(line)] if line else lines), []
        else:
            line += [f"{x:.1f},{y:.1f}", f"{x + step:.1f},{y:.1f}"]
    if line:
        lines.append(" ".join(line))
    measured = [slot.measured for slot in slots if slot.measured is not None]
    return History(
        service, columns, lines,
        [Label(_score_y(value, low), f"{value:g}") for value in (100.0, (100 + low) / 2, low)],
        [
            Label(_LEFT + number * step, datetime.fromtimestamp(slot.at_s - SLOT_S, UTC).strftime("%-d %b"))
            for number, slot in enumerate(slots)
            if (slot.at_s // SLOT_S) % (20 * 86400 // 4 // SLOT_S) == 0 and number < len(slots) - 4
        ],
        _days(slots), most, sum(slot.violations for slot in slots),
        # Slots without any sample were not measured: they count as nothing seen.
        sum(measured) / len(slots) if measured else None,
    )  # fmt: skip


def recorded_days(sums: Mapping[date, int], today: date) -> list[Column]:
    """Return bars of what records say for each of the last 30 days: found violations only, nothing on what was looked at."""
    days = [today - timedelta(days=back) for back in range(HISTORY_DAYS - 1, -1, -1)]
    most = max((sums.get(day, 0) for day in days), default=0)
    step = (WIDTH - _LEFT - _RIGHT) / len(days)
    columns = []
    for number, day in enumerate(days):
        found = sums.get(day, 0)
        height = 0.0 if not found else max(3.0, (_BAR_BOTTOM - _TOP) * found / most)
        says = f"{day.isoformat()}: {found} violations recorded"
        columns.append(Column(_LEFT + number * step, step, "bad" if found else "unseen", says, None, _BAR_BOTTOM - height, height))
    return columns


def _score_y(value: float, low: float) -> float:
    return _SCORE_BOTTOM - (_SCORE_BOTTOM - _TOP) * (max(value, low) - low) / (100.0 - low)


def _says(slot: Slot) -> str:
    start = datetime.fromtimestamp(slot.at_s - SLOT_S, UTC)
    when = f"{start:%Y-%m-%d %H:%M} UTC, 6 h"
    if slot.lowest is None:
        return f"{when}: not measured" + (f", {slot.violations} violations" if slot.violations else "")
    score = math.floor(slot.lowest * 100 + 1e-9) / 100
    return f"{when}: lowest score {score:g}, {slot.violations} violations, measured {math.floor((slot.measured or 0) * 100)} % of the time"


def _days(slots: Sequence[Slot]) -> list[Day]:
    by_day: dict[date, list[Slot]] = {}
    for slot in slots:
        by_day.setdefault(datetime.fromtimestamp(slot.at_s - SLOT_S, UTC).date(), []).append(slot)
    found = []
    for day, some in sorted(by_day.items(), reverse=True):
        lows = [slot.lowest for slot in some if slot.lowest is not None]
        seen = [slot.measured for slot in some if slot.measured is not None]
        found.append(Day(day, min(lows, default=None), sum(seen) / len(some) if seen else None, sum(slot.violations for slot in some)))
    return found
