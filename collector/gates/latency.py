"""Latency: is the canary's 95th percentile more than 10 % above the control's?

That is so exactly when more than 5 % of its requests are slower than 1.10 times the control's 95th percentile: a
question on counts, put to blocks of minutes as the error rate is. Two sequences must agree: the share is above 5 %, and
it is above the control's at the same time, so that a slow hour that both arms share fails nobody.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.error_rate import no_control, resembling, traffic_s
from isolation_monitor.collector.gates.minutes import Blocks, Histogram, Minute, MinuteReading, independent_blocks, timed_of
from isolation_monitor.collector.gates.reasons import Numbers, Reason, too_few
from isolation_monitor.collector.gates.statistics import mean_and_sd

TRIGGER: Final = "latency"
TAIL: Final = 0.05
STEP: Final = 1.10
_ROUNDING: Final = 1.005
"""Edges are printed with a few digits: a ladder of steps of 10 % has steps of 10.4 % here and there."""
MIN_CONTROL: Final = 100
"""Control requests from which its 95th percentile is read: five are beyond it."""


def slow_threshold(plan: ComparisonPlan, histogram: Histogram) -> float | None:
    """Return the duration in seconds above which a request counts as slow; None where the control does not say yet."""
    if not plan.has_control:
        return plan.slo_p95_s
    if sum(histogram.off) < MIN_CONTROL:
        return None
    p95 = quantile(histogram.edges, histogram.off, 1 - TAIL)
    return None if p95 is None else round(p95 * (1 + plan.latency_margin_percent / 100), 9)


def latency(plan: ComparisonPlan, reading: MinuteReading) -> tuple[list[Reason], Numbers]:
    """Return the reasons of this trigger and its numbers."""
    if not plan.has_control and plan.slo_p95_s is None:
        return [no_control(TRIGGER, "a 95th percentile (slo_p95_s)")], {}
    histogram = reading.histogram
    if histogram is not None:
        if broken := ladder_problem(plan, histogram):
            return [broken], {}
        if reading.slow_above_s is not None and reading.slow_above_s != slow_threshold(plan, histogram):
            detail = f"slow requests were counted above {reading.slow_above_s:g} s, which is not what the histogram says"
            return [Reason(TRIGGER, "error", "inconsistent", detail)], {}
    if reading.slow_above_s is None:
        have = 0.0 if histogram is None else math.fsum(histogram.off)
        return [too_few(TRIGGER, "control requests with a duration", have, MIN_CONTROL, _elapsed_s(reading))], {}
    over = independent_blocks(reading.minutes, _over_tail, size=timed_of, both=plan.has_control)
    numbers = _numbers(plan, reading, over)
    bounds = plan.bounds(TRIGGER, over.values)
    if bounds is None:
        have = len(over.values)
        return [too_few(TRIGGER, "blocks", have, plan.min_blocks, _elapsed_s(reading), code="min_blocks")], numbers
    if not over.independent:
        return [resembling(TRIGGER, over)], numbers
    low, _ = bounds
    numbers["slow_share_low"] = round(max(0.0, low + TAIL), 6)
    if low > 0 and (not plan.has_control or _surely_positive(plan, _against_control(over))):
        share = numbers["slow_share"]
        limit = f"{reading.slow_above_s:.4g} s" if reading.slow_above_s else "agreed"
        detail = (
            f"{share * 100:.2f} % of canary requests took longer than {limit}, certainly more than "
            f"{numbers['slow_share_low'] * 100:.2f} %; {TAIL * 100:g} % may"
        )
        return [Reason(TRIGGER, "fail", "slower" if plan.has_control else "above_slo", detail, have=share, need=TAIL)], numbers
    requests = math.fsum(block.on.timed for block in over.blocks)
    if requests < plan.min_slow_evidence:
        return [too_few(TRIGGER, "canary requests", requests, plan.min_slow_evidence, traffic_s(reading, requests))], numbers
    return [], numbers


def ladder_problem(plan: ComparisonPlan, histogram: Histogram) -> Reason | None:
    """Say whether the buckets are too coarse to tell 10 %, or end too early; None when they will do."""
    counts = histogram.off if plan.has_control else histogram.on
    total = math.fsum(counts)
    if total < MIN_CONTROL:
        return None
    if counts[-1] > TAIL * total:
        top = histogram.edges[-1] if histogram.edges else 0.0
        detail = f"more than 5 % of requests took longer than the highest bucket, {top:g} s: add buckets above it"
        return Reason(TRIGGER, "error", "bucket_resolution", detail, have=top)
    p95 = quantile(histogram.edges, counts, 1 - TAIL)
    if p95 is None:
        return None
    at = bisect_left(histogram.edges, p95)
    for index in (at, min(at + 1, len(histogram.edges) - 1)):
        below = histogram.edges[index - 1] if index > 0 else 0.0
        above = histogram.edges[index]
        if index == at == 0 or above > below * STEP * _ROUNDING:
            detail = (
                f"the 95th percentile lies near the bucket from {below:g} to {above:g} s: steps above {STEP - 1:.0%} cannot tell "
                f"{plan.latency_margin_percent:g} %; use a ladder of steps of 10 % around it"
            )
            return Reason(TRIGGER, "error", "bucket_resolution", detail, have=round(above / below, 3) if below else None, need=STEP)
    return None


def quantile(edges: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return the duration below which `share` of the counts lie, read between edges; None beyond the last edge."""
    wanted, seen = share * math.fsum(counts), 0.0
    for index, count in enumerate(counts[:-1]):
        if count > 0 and seen + count >= wanted:
            below = edges[index - 1] if index > 0 else 0.0
            return below + (edges[index] - below) * (wanted - seen) / count
        seen += count
    return None


def slower_than(edges: Sequence[float], counts: Sequence[float], threshold_s: float) -> float:
    """Return how many requests took longer, read between edges."""
    index = bisect_left(edges, threshold_s)
    if index >= len(edges):
        return counts[-1]
    below = edges[index - 1] if index > 0 else 0.0
    part = (edges[index] - threshold_s) / (edges[index] - below)
    return math.fsum(counts[index + 1 :]) + counts[index] * part


def _surely_positive(plan: ComparisonPlan, values: list[float]) -> bool:
    bounds = plan.bounds(TRIGGER, values)
    return bounds is not None and bounds[0] > 0


def _over_tail(block: Minute) -> float:
    return block.on.slow / block.on.timed - TAIL


def _against_control(over: Blocks) -> list[float]:
    return [block.on.slow / block.on.timed - block.off.slow / block.off.timed for block in over.blocks]


def _numbers(plan: ComparisonPlan, reading: MinuteReading, over: Blocks) -> Numbers:
    numbers: Numbers = {"slow_above_s": reading.slow_above_s} if reading.slow_above_s else {}
    numbers |= {"latency_alpha": round(plan.alpha_of(TRIGGER), 6)}
    if over.values:
        numbers["slow_share"] = round(mean_and_sd(over.values)[0] + TAIL, 6)
        numbers["latency_blocks"] = len(over.values)
    if reading.histogram is not None and plan.has_control:
        edges, on, off = reading.histogram.edges, reading.histogram.on, reading.histogram.off
        mine, theirs = quantile(edges, on, 1 - TAIL), quantile(edges, off, 1 - TAIL)
        if mine is not None and theirs:
            numbers["p95_ratio"] = round(mine / theirs, 4)
    return numbers


def _elapsed_s(reading: MinuteReading) -> float:
    return 60.0 * sum(minute.length for minute in reading.minutes)
