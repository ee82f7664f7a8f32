"""What the gate would have said: its own judgement, look by look, over minutes of the past."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.domain import VERDICT_CODES, GatePlan, Inputs, Judgement, MetricReading, RecordCounts, judge
from isolation_monitor.collector.gates.minutes import MinuteReading

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class PastStage:
    """One stage of the past. `reading` says what was known at the end of a minute, `first` and `last` count since 1970."""

    comparison: ComparisonPlan
    first: int
    last: int
    reading: Callable[[int], MinuteReading]


@dataclass(frozen=True, slots=True)
class Look:
    """One look. `latched`: the rollout had failed before, so nothing was judged any more."""

    minute: int
    percent: float
    judgement: Judgement
    latched: bool = False

    def as_json(self) -> Json:
        return {
            "minute": self.minute,
            "percent": self.percent,
            "verdict_code": VERDICT_CODES[self.judgement.verdict],
            "latched": self.latched,
            **self.judgement.as_json(),
        }


def looks(stages: Sequence[PastStage], min_exposed_requests: int) -> Iterator[Look]:
    """Yield a look at the end of each minute. After a failure all others fail, too: traffic that recovers proves nothing."""
    failed: Judgement | None = None
    for stage in stages:
        plan = GatePlan("backtest", "backtest", "on", min_exposed_requests, 0, 60.0, comparison=stage.comparison)
        for minute in range(stage.first, stage.last + 1):
            if failed is not None:
                yield Look(minute, stage.comparison.percent, failed, latched=True)
                continue
            reading = stage.reading(minute)
            judged = judge(plan, Inputs((minute - stage.first + 1) * 60.0, RecordCounts(), _metrics(reading), reading))
            failed = judged if judged.verdict == "fail" else None
            yield Look(minute, stage.comparison.percent, judged)


def _metrics(reading: MinuteReading) -> MetricReading:
    """Return the stage's totals. Minutes of the past say nothing of detectors and scrapes: they are taken to have worked."""
    requests = sum(minute.on.requests for minute in reading.minutes)
    return MetricReading(
        targets_up=1,
        data_age_s=0.0,
        checks=requests,
        requests=requests,
        exposed_isolated=requests - reading.violations,
        violations=reading.violations,
    )
