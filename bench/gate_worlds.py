"""Invented services for the gates' simulations: traffic, errors in bursts, latencies; seeded, minute by minute.

Errors of one arm and minute share a rate that is drawn anew each minute (beta-binomial, as in the canary-gates reference):
`icc` says how alike requests of one minute fail; 0 means independently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.domain import GatePlan, Inputs, Judgement, MetricReading, RecordCounts, judge
from isolation_monitor.collector.gates.latency import slow_threshold, slower_than
from isolation_monitor.collector.gates.minutes import Counts, Histogram, Minute, MinuteReading
from isolation_monitor.telemetry.names import GATE_BUCKETS

Array = Any  # Any: numpy arrays, whose element types mean nothing here

_CLEAN: Final = MetricReading(
    targets_up=1, data_age_s=1.0, checks=10**6, requests=10**6, exposed_isolated=10**6, violations=0.0, session_leaks=0.0,
    delivered=10**6, lost=0.0, cascades=0.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """One service under a rollout. Rates are shares, `rps` counts both arms; `harm_pp` and `slowdown` befall the canary only.

    `sigma` is the spread of the logarithm of latencies around a median of 100 ms; 0 means that none are measured.
    """

    rps: float
    base: float = 0.0
    icc: float = 0.0
    harm_pp: float = 0.0
    sigma: float = 0.0
    slowdown: float = 1.0
    begins: int = 0
    """The minute in which the harm begins."""


@dataclass(frozen=True, slots=True)
class Stage:
    percent: float
    minutes: int


def counts(world: World, share: float, minutes: int, harmed: bool, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return requests and errors of one arm, a number a minute."""
    requests = rng.poisson(world.rps * 60 * share, minutes)
    rate = np.full(minutes, world.base)
    if harmed:
        rate[world.begins :] += world.harm_pp / 100
    if world.icc > 0:
        weight = (1 - world.icc) / world.icc
        drawn = np.zeros(minutes)
        some = (rate > 0) & (rate < 1)
        drawn[some] = rng.beta(rate[some] * weight, (1 - rate[some]) * weight)
        rate = drawn
    return requests, rng.binomial(requests, rate)


def buckets(world: World, requests: Array, harmed: bool, rng: np.random.Generator) -> Array:
    """Return counts per bucket of `GATE_BUCKETS`, a row a minute."""
    found = np.zeros((len(requests), len(GATE_BUCKETS) + 1))
    median = math.log(0.1 * (world.slowdown if harmed else 1.0))
    for minute, number in enumerate(requests):
        took = np.exp(rng.normal(median, world.sigma, number))
        found[minute] = np.bincount(np.searchsorted(GATE_BUCKETS, took), minlength=len(GATE_BUCKETS) + 1)
    return found


def verdict_of_rollout(world: World, stages: tuple[Stage, ...], rng: np.random.Generator) -> Outcome:
    """Judge a rollout at the end of each of its minutes by the gate's own function, until it fails or ends."""
    looks = 0
    for position, stage in enumerate(stages):
        plan = GatePlan(
            "simulated", "simulated", "on", 300, 0, 30.0, comparison=ComparisonPlan(stage.percent, position=position, stages=len(stages))
        )
        minutes, histograms = _stage_minutes(world, stage, rng)
        for number in range(1, stage.minutes + 1):
            looks += 1
            judged = judge(plan, Inputs(number * 60.0, RecordCounts(), _CLEAN, _reading(plan, minutes[:number], histograms, number)))
            if judged.verdict == "fail":
                return Outcome(looks, judged)
    return Outcome(looks, None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """After how many looks a rollout stopped, and why; `judged` None: it did not."""

    looks: int
    judged: Judgement | None

    @property
    def codes(self) -> list[str]:
        return (
            [] if self.judged is None else [f"{reason.trigger}/{reason.code}" for reason in self.judged.reasons if reason.state == "fail"]
        )


def _stage_minutes(world: World, stage: Stage, rng: np.random.Generator) -> tuple[list[Minute], tuple[Array, Array] | None]:
    share = stage.percent / 100
    on, on_errors = counts(world, share, stage.minutes, True, rng)
    off, off_errors = counts(world, 1 - share, stage.minutes, False, rng)
    minutes = [
        Minute(n, Counts(float(on[n]), float(on_errors[n])), Counts(float(off[n]), float(off_errors[n]))) for n in range(stage.minutes)
    ]
    if not world.sigma:
        return minutes, None
    return minutes, (buckets(world, on, True, rng).cumsum(0), buckets(world, off, False, rng).cumsum(0))


def _reading(plan: GatePlan, minutes: list[Minute], histograms: tuple[Array, Array] | None, number: int) -> MinuteReading:
    """Return what the collector would have read by then: the threshold of slowness follows the control so far."""
    if histograms is None or plan.comparison is None:
        return MinuteReading(tuple(minutes))
    on, off = histograms
    histogram = Histogram(GATE_BUCKETS, tuple(on[number - 1].tolist()), tuple(off[number - 1].tolist()))
    slow_above_s = slow_threshold(plan.comparison, histogram)
    timed = [
        replace(minute, on=_timed(minute.on, on, n, slow_above_s), off=_timed(minute.off, off, n, slow_above_s))
        for n, minute in enumerate(minutes)
    ]
    return MinuteReading(tuple(timed), histogram=histogram, slow_above_s=slow_above_s)


def _timed(arm: Counts, cumulated: Array, minute: int, slow_above_s: float | None) -> Counts:
    own = cumulated[minute] - (cumulated[minute - 1] if minute else 0)
    slow = 0.0 if slow_above_s is None else slower_than(GATE_BUCKETS, own.tolist(), slow_above_s)
    return replace(arm, timed=float(own.sum()), slow=slow)
