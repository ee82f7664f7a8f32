"""A stage minute by minute, read from Prometheus and kept: each minute is read once, when it is over.

A decision by statistics can only change when another minute is over. So asking a gate more often gives no extra looks,
and costs no more queries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.latency import slow_threshold, slower_than
from isolation_monitor.collector.gates.minutes import Counts, Histogram, Minute, MinuteReading, rolled_up
from isolation_monitor.collector.gates.prometheus import PrometheusSource, Sample, SourceUnavailable
from isolation_monitor.telemetry import names

SETTLE_S: Final = 15
"""After its end a minute is left alone for so long: a scrape that began in it may still be under way."""
MINUTES_KEPT: Final = 2880
"""A comparison looks back at most two days."""
_CHUNK: Final = 60
_PAST: Final = "15m"
"""How far back the last sample before a minute is searched: bridges outages of Prometheus."""

_REQUESTS: Final = names.GATE_REQUESTS.name
_DURATION: Final = f"{names.GATE_DURATION.name}_bucket"
_VIOLATIONS: Final = names.GATE_VIOLATIONS.name
_DELIVERIES: Final = names.EVENT_DELIVERIES.name


def minute_queries(service: str, rollout: str) -> dict[str, str]:
    """Return the expressions that, asked at the end of a minute, say what happened in it."""
    mine = f"service={_quoted(service)},rollout={_quoted(rollout)}"
    requests = f"{_REQUESTS}{{{mine}}}"
    durations = f"{_DURATION}{{{mine}}}"
    violations = f'{_VIOLATIONS}{{{mine},grade=~"crossed|reachable"}}'
    deliveries = f"{_DELIVERIES}{{service={_quoted(service)}}}"
    return {
        "requests": f"sum by (arm, outcome) ({_growth(requests)})",
        "durations": f"sum by (arm, le) ({_growth(durations)})",
        "violations": f"sum by (arm) ({_growth(violations)})",
        "deliveries": f"sum by (arm, result) ({_growth(deliveries)})",
        "seen": f"count(count_over_time({requests}[1m]))",
        "restarts": f"sum((resets({requests}[1m]) > 0) or (max_over_time({requests}[1m]) < last_over_time({requests}[{_PAST}] offset 1m)))",
    }


def _growth(selector: str) -> str:
    """Growth of each series in the minute; a series that was born in it counts whole, and is extrapolated only after a reset."""
    after_reset = f"(increase({selector}[1m]) and resets({selector}[1m]) > 0)"
    grown = f"(max_over_time({selector}[1m]) - last_over_time({selector}[{_PAST}] offset 1m) >= 0)"
    return f"{after_reset} or {grown} or max_over_time({selector}[1m])"


@dataclass(slots=True)
class _Raw:
    """One minute as it was read; `buckets` are counts by index of the upper edge, by arm."""

    on: dict[str, float] = field(default_factory=dict)
    off: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)
    violations: float = 0.0
    seen: bool = False
    restarted: bool = False
    broken: bool = False


class MinuteBook:
    """The minutes of one stage. Not for two stages: they are never pooled."""

    def __init__(self, service: str, rollout: str, started_at: datetime, shifted_at: datetime | None = None) -> None:
        """`shifted_at` is a moment after the start at which the share of traffic was changed."""
        self.queries = minute_queries(service, rollout)
        # The first whole minute that no sample of before reaches into.
        self._next = math.ceil((started_at.timestamp() + SETTLE_S) / 60)
        self._shifted = None if shifted_at is None or shifted_at <= started_at else int(shifted_at.timestamp() // 60)
        self._raw: dict[int, _Raw] = {}
        self._made: MinuteReading | None = None

    async def read(
        self,
        source: PrometheusSource,
        plan: ComparisonPlan,
        now: datetime,
        *,
        chunks: int | None = None,
        told: Callable[[int, int], None] = lambda done, of: None,
    ) -> MinuteReading:
        """Return all minutes that are over, after at most so many `chunks` of an hour; `told` hears of progress in minutes.

        Minutes that could not be read are read at the next call; then the answer says what the problem is.
        """
        end = math.floor((now.timestamp() - SETTLE_S) / 60)
        self._next = max(self._next, end - MINUTES_KEPT)
        first, problem, asked = self._next, None, 0
        while self._next < end:
            if asked == chunks:
                problem = f"still reading the past of this stage: {end - self._next} minutes to go"
                break
            asked += 1
            until = min(self._next + _CHUNK, end)
            try:
                self._keep(self._next, until, await source.read_range(self.queries, (self._next + 1) * 60, until * 60, 60))
            except SourceUnavailable as error:
                problem = str(error)
                break
            self._next, self._made = until, None
            told(self._next - first, end - first)
        if problem is not None:
            return MinuteReading(problem=problem)
        if self._made is None:
            self._made = self.reading(plan)
        return self._made

    @property
    def last_minute(self) -> int:
        """The last minute that was read, counted since 1970."""
        return self._next - 1

    def _keep(self, start: int, end: int, read: Mapping[str, list[Sample]]) -> None:
        fresh = {minute: _Raw() for minute in range(start, end)}
        for name, samples in read.items():
            for labels, time, value in samples:
                raw = fresh.get(round(time / 60) - 1)
                if raw is None:
                    continue
                if not math.isfinite(value):
                    raw.broken = True
                    continue
                _note(raw, name, labels, value)
        self._raw |= fresh
        for minute in [minute for minute in self._raw if minute < end - MINUTES_KEPT]:
            del self._raw[minute]

    def reading(self, plan: ComparisonPlan, until: int | None = None) -> MinuteReading:
        """Return what was read, all of it or as it was at the end of the minute `until`."""
        known = {minute: raw for minute, raw in self._raw.items() if until is None or minute <= until}
        good = {minute: raw for minute, raw in known.items() if raw.seen and not raw.broken}
        histogram = _histogram(list(good.values()))
        slow_above_s = None if histogram is None else slow_threshold(plan, histogram)
        minutes = [self._minute(number, raw, histogram, slow_above_s) for number, raw in sorted(good.items())]
        return MinuteReading(
            rolled_up(minutes),
            unseen=sum(not raw.seen and not raw.broken for raw in known.values()),
            broken=sum(raw.broken for raw in known.values()),
            violations=math.fsum(raw.violations for raw in known.values()),
            histogram=histogram,
            slow_above_s=slow_above_s,
        )

    def _minute(self, number: int, raw: _Raw, histogram: Histogram | None, slow_above_s: float | None) -> Minute:
        on, off = (
            _counts(counted, _bucketed(histogram.edges, raw.buckets.get(arm, {})) if histogram is not None else (), histogram, slow_above_s)
            for arm, counted in (("on", raw.on), ("off", raw.off))
        )
        return Minute(number, on, off, restarted=raw.restarted, shifted=number == self._shifted)


def _note(raw: _Raw, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "seen":
        raw.seen = value > 0
    elif name == "restarts":
        # An empty comparison is no sample at all; one that is there counts series that began again.
        raw.restarted = True
    elif labels.get("arm") not in ("on", "off"):
        return
    elif name == "violations":
        raw.violations += value if labels["arm"] == "on" else 0.0
    elif name == "durations":
        raw.buckets.setdefault(labels["arm"], {})[float(labels["le"])] = value
    else:
        counted = raw.on if labels["arm"] == "on" else raw.off
        kind = labels.get("outcome") or labels.get("result") or ""
        counted[kind] = counted.get(kind, 0.0) + value


def _counts(counted: dict[str, float], buckets: tuple[float, ...], histogram: Histogram | None, slow_above_s: float | None) -> Counts:
    slow = 0.0 if histogram is None or slow_above_s is None else slower_than(histogram.edges, buckets, slow_above_s)
    return Counts(
        requests=round(counted.get("ok", 0.0) + counted.get("error", 0.0), 3),
        errors=round(counted.get("error", 0.0), 3),
        timed=round(math.fsum(buckets), 3),
        slow=round(slow, 3),
        delivered=round(counted.get("delivered", 0.0), 3),
        lost=round(counted.get("lost", 0.0), 3),
    )


def _histogram(raws: list[_Raw]) -> Histogram | None:
    edges = sorted({edge for raw in raws for buckets in raw.buckets.values() for edge in buckets if math.isfinite(edge)})
    if not edges:
        return None
    totals = {arm: [0.0] * (len(edges) + 1) for arm in ("on", "off")}
    for raw in raws:
        for arm, buckets in raw.buckets.items():
            for index, count in enumerate(_bucketed(edges, buckets)):
                totals[arm][index] += count
    return Histogram(tuple(edges), tuple(round(n, 3) for n in totals["on"]), tuple(round(n, 3) for n in totals["off"]))


def _bucketed(edges: Any, cumulative: Mapping[float, float]) -> tuple[float, ...]:  # Any: a list or a tuple
    """Return counts per bucket from cumulative ones; extrapolation after a reset may make one fall, which counts as zero."""
    found, before = [], 0.0
    for edge in (*edges, math.inf):
        value = max(before, cumulative.get(edge, before))
        found.append(value - before)
        before = value
    return tuple(found)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
