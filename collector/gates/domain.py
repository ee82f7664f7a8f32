"""The verdict of a gate: a pure function of the rollout's plan and of what was counted.

Zero tolerance needs no statistics: one violation fails. Everything else is about never mistaking "did not look" or
"too little to see" for "good". Precedence: fail > error > inconclusive > pass. The same plan and inputs always give
the same judgement, so a stored decision can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.coverage import coverage
from isolation_monitor.collector.gates.delivery_rate import delivery_rate
from isolation_monitor.collector.gates.error_rate import error_rate
from isolation_monitor.collector.gates.latency import latency
from isolation_monitor.collector.gates.minutes import MinuteReading
from isolation_monitor.collector.gates.reasons import PRECEDENCE, Numbers, Reason, Verdict, too_few
from isolation_monitor.collector.gates.statistics import rate_excluded

VERDICT_CODES: Final[dict[Verdict, int]] = {"pass": 1, "inconclusive": 0, "fail": -1, "error": -2}
DELIVERY_FLOOR_PERCENT: Final = 95
"""Share of owed events that must be delivered (requirement R5: below is a rollback trigger)."""
DELIVERY_MIN_OWED: Final = 100
TRIGGERS: Final = ("isolation", "cascade", "session_leak", "singleton_reuse", "error_rate", "latency", "delivery")
"""What a stage may leave out, isolation excepted; a test holds it to the list of the rollouts' files."""
ISOLATION_CERTAINTY: Final = 0.95


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Thresholds of one rollout, or of one stage of it. `arm` None judges all arms together.

    `stage_kind` internal has too few users for statistics. `triggers` None means all of them. `rolled_back` says why the
    rollout was taken back, which is a failure until a person re-arms it; empty when it was not. `comparison` None: the arms
    are not compared.
    """

    rollout: str
    service: str
    arm: str | None
    min_exposed_requests: int
    min_owed_events: int
    scrape_stale_after_s: float
    delivery_floor_percent: int = DELIVERY_FLOOR_PERCENT
    stage_kind: str = "percent"
    triggers: Sequence[str] | None = None
    rolled_back: str = ""
    stage: str = ""
    comparison: ComparisonPlan | None = None

    def uses(self, trigger: str) -> bool:
        """Say whether a reason of this trigger counts. What is no trigger (`source`, `rollout`) always does."""
        return self.triggers is None or trigger not in TRIGGERS or trigger in self.triggers

    @staticmethod
    def from_json(value: dict[str, Any]) -> GatePlan:
        """Return the plan that `dataclasses.asdict` had written; members that it does not know are left out."""
        given = {name: value[name] for name in GatePlan.__slots__ if name in value}
        if given.get("comparison") is not None:
            given["comparison"] = ComparisonPlan.from_json(given["comparison"])
        if given.get("triggers") is not None:
            given["triggers"] = tuple(given["triggers"])
        return GatePlan(**given)


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """Counted from records pushed to the collector since the rollout's start; synthetic and retracted ones left out."""

    violations: int = 0
    session_leaks: int = 0
    examples: tuple[str, ...] = ()
    """Ids of some of them."""
    singleton_reuses: int = 0
    """Of the violations, those by an instance that two principals were given."""


@dataclass(frozen=True, slots=True)
class MetricReading:
    """Counted from Prometheus since the rollout's start. None means that there is no such series.

    `problem` says why nothing could be read at all; all numbers are None then.
    """

    problem: str | None = None
    targets_up: int = 0
    targets_down: int = 0
    data_age_s: float | None = None
    checks: float | None = None
    requests: float | None = None
    exposed_isolated: float | None = None
    violations: float | None = None
    session_leaks: float | None = None
    session_leaks_retracted: float | None = None
    delivered: float | None = None
    lost: float | None = None
    cascades: float | None = None
    escaped: float | None = None
    """Failures of this arm that touched another principal."""
    escaped_elsewhere: float | None = None
    singleton_reuses: float | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a judgement rests on. `elapsed_s` is the age of the rollout; `minutes` None: nothing is compared."""

    elapsed_s: float
    records: RecordCounts
    metrics: MetricReading
    minutes: MinuteReading | None = None

    def as_json(self) -> dict[str, Any]:
        minutes = None if self.minutes is None else self.minutes.as_json()
        return {"elapsed_s": self.elapsed_s, "records": asdict(self.records), "metrics": asdict(self.metrics), "minutes": minutes}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Inputs:
        records = RecordCounts(**{**value["records"], "examples": tuple(value["records"]["examples"])})
        minutes = value.get("minutes")
        reading = None if minutes is None else MinuteReading.from_json(minutes)
        return Inputs(value["elapsed_s"], records, MetricReading(**value["metrics"]), reading)


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    reasons: tuple[Reason, ...]
    metrics: dict[str, float | int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what it adds to an answer; a replay compares exactly this."""
        return {"verdict": self.verdict, "reasons": [reason.as_json() for reason in self.reasons], "metrics": self.metrics}


def judge(plan: GatePlan, inputs: Inputs) -> Judgement:
    """Return the verdict with all its reasons, gravest first."""
    reasons = [
        *_rolled_back(plan),
        *_isolation(inputs),
        *_singleton_reuse(inputs),
        *_session_leaks(inputs),
        *_cascade(plan, inputs.metrics),
        *_sight(plan, inputs.metrics),
        *_exposure(plan, inputs),
        *_delivery(plan, inputs),
    ]
    numbers = _numbers(inputs)
    if plan.comparison is not None:
        compared, more = compare(plan.comparison, inputs.minutes, plan.delivery_floor_percent)
        reasons += compared
        numbers |= more
    reasons = [reason for reason in reasons if plan.uses(reason.trigger)]
    reasons.sort(key=lambda reason: PRECEDENCE.index(reason.state))
    verdict: Verdict = reasons[0].state if reasons else "pass"
    return Judgement(verdict, tuple(reasons), numbers)


def compare(plan: ComparisonPlan, reading: MinuteReading | None, delivery_floor_percent: float) -> tuple[list[Reason], Numbers]:
    """Return the reasons and numbers of the triggers that compare the arms of one stage."""
    if reading is None:
        return [Reason("source", "error", "series_absent", "nothing was read by minute")], {}
    reasons = coverage(plan, reading)
    numbers: Numbers = {}
    if not reading.minutes or any(reason.code == "sample_ratio_mismatch" for reason in reasons):
        # Arms of a wrong size are not the arms that were drawn: any difference may be one of their users.
        return reasons, numbers
    for trigger, (found, more) in (
        ("error_rate", error_rate(plan, reading)),
        ("latency", latency(plan, reading)),
        ("delivery", delivery_rate(plan, reading, delivery_floor_percent)),
    ):
        if trigger in plan.triggers:
            reasons += found
            numbers |= more
    return reasons, numbers


def _rolled_back(plan: GatePlan) -> list[Reason]:
    if not plan.rolled_back:
        return []
    return [Reason("rollout", "fail", "rolled_back", f"it was rolled back ({plan.rolled_back}) and not re-armed")]


def _isolation(inputs: Inputs) -> list[Reason]:
    by_minute = 0 if inputs.minutes is None else _count(inputs.minutes.violations)
    counted = max(_count(inputs.metrics.violations), by_minute)
    found = max(inputs.records.violations, counted)
    if not found:
        return []
    detail = f"{inputs.records.violations} violations in records and {counted} in metrics since the rollout began; one is enough"
    return [Reason("isolation", "fail", "violations", detail, have=found, need=0, examples=inputs.records.examples)]


def _singleton_reuse(inputs: Inputs) -> list[Reason]:
    found = max(inputs.records.singleton_reuses, _count(inputs.metrics.singleton_reuses))
    if not found:
        return []
    detail = f"{found} times an instance that is made for one principal was given to another"
    return [Reason("singleton_reuse", "fail", "singleton_reused", detail, have=found, need=0)]


def _cascade(plan: GatePlan, metrics: MetricReading) -> list[Reason]:
    found = _count(metrics.cascades)
    if not found:
        return []
    detail = f"{found} failures reached two other principals or more"
    if plan.arm is not None and not _count(metrics.escaped) and _count(metrics.escaped_elsewhere):
        why = f"{detail}, all of them outside of arm {plan.arm}: find out why before going on"
        return [Reason("cascade", "inconclusive", "cascade_elsewhere", why, have=found, need=0)]
    return [Reason("cascade", "fail", "cascades", f"{detail}; one is enough", have=found, need=0)]


def _session_leaks(inputs: Inputs) -> list[Reason]:
    found = max(inputs.records.session_leaks, _net_leaks(inputs.metrics))
    if not found:
        return []
    return [
        Reason("session_leak", "fail", "session_leaks", f"{found} database connections leaked and did not come back", have=found, need=0)
    ]


def _delivery(plan: GatePlan, inputs: Inputs) -> list[Reason]:
    metrics = inputs.metrics
    if metrics.problem is not None:
        return []
    delivered, owed = metrics.delivered or 0.0, (metrics.delivered or 0.0) + (metrics.lost or 0.0)
    judged_from = min(DELIVERY_MIN_OWED, plan.min_owed_events or DELIVERY_MIN_OWED)
    # Where arms are compared a test judges; and of a handful of internal users a share says nothing.
    by_floor = plan.comparison is None and plan.stage_kind != "internal"
    if by_floor and owed >= judged_from and delivered * 100 < plan.delivery_floor_percent * owed:
        share = round(100 * delivered / owed, 2)
        detail = f"{share} % of {_whole(owed)} owed events were delivered, at least {plan.delivery_floor_percent} % must be"
        return [Reason("delivery", "fail", "below_floor", detail, have=share, need=plan.delivery_floor_percent)]
    if owed < plan.min_owed_events:
        return [too_few("delivery", "owed events", owed, plan.min_owed_events, inputs.elapsed_s)]
    return []


def _sight(plan: GatePlan, metrics: MetricReading) -> list[Reason]:
    """Say whether the service could be seen at all."""
    if metrics.problem is not None:
        return [Reason("source", "error", "source_unavailable", metrics.problem)]
    targets = metrics.targets_up + metrics.targets_down
    if targets and not metrics.targets_up:
        return [Reason("source", "error", "scrape_down", f"none of {targets} targets of the service can be scraped", have=0, need=targets)]
    if metrics.data_age_s is None:
        detail = (
            "the service is scraped but shows no isolation series: is telemetry switched on?"
            if targets
            else "Prometheus knows no isolation series of this service: is its name right, and is it scraped?"
        )
        return [Reason("source", "error", "series_absent", detail)]
    if metrics.data_age_s > plan.scrape_stale_after_s:
        detail = f"the newest sample is {metrics.data_age_s:.0f} s old"
        return [Reason("source", "error", "scrape_down", detail, have=round(metrics.data_age_s, 1), need=plan.scrape_stale_after_s)]
    if _count(metrics.requests) and metrics.violations is None:
        return [Reason("source", "error", "series_absent", "the service counts requests but no violations: its telemetry is incomplete")]
    if metrics.targets_down:
        detail = f"{metrics.targets_down} of {targets} targets of the service cannot be scraped, so a part of it is out of sight"
        return [Reason("source", "inconclusive", "scrape_down", detail, have=metrics.targets_up, need=targets)]
    return []


def _exposure(plan: GatePlan, inputs: Inputs) -> list[Reason]:
    """Say whether enough requests had a chance to be violated. No finding in no traffic is no finding."""
    metrics = inputs.metrics
    if metrics.problem is not None or metrics.data_age_s is None:
        return []
    arm = "" if plan.arm is None else f" of arm {plan.arm}"
    if not _count(metrics.requests):
        return [Reason("isolation", "inconclusive", "no_traffic", f"no request{arm} since the rollout began")]
    if not _count(metrics.checks):
        return [Reason("isolation", "inconclusive", "no_checks", "requests were served but no detector checked any of them")]
    have = metrics.exposed_isolated or 0.0
    if have < plan.min_exposed_requests:
        return [too_few("isolation", f"exposed isolated requests{arm}", have, plan.min_exposed_requests, inputs.elapsed_s)]
    return []


def _numbers(inputs: Inputs) -> dict[str, float | int]:
    """Return what is known. A number that nobody could count is left out, never null."""
    metrics, records = inputs.metrics, inputs.records
    seen = metrics.violations is not None
    violations = max(records.violations, _count(metrics.violations))
    numbers: dict[str, float | int | None] = {
        "isolation_violations_recorded": records.violations,
        "isolation_violations": violations if seen or violations else None,
        "isolation_checks": _known(metrics.checks),
        "requests": _known(metrics.requests),
        "exposed_isolated_requests": _known(metrics.exposed_isolated),
        "isolation_upper95": _upper95(metrics.exposed_isolated) if seen and not violations else None,
        "session_leaks": max(records.session_leaks, _net_leaks(metrics)) if metrics.session_leaks is not None else None,
    }
    if metrics.delivered is not None or metrics.lost is not None:
        delivered, lost = metrics.delivered or 0.0, metrics.lost or 0.0
        numbers |= {"owed_events": _whole(delivered + lost), "delivered_events": _whole(delivered)}
        if delivered + lost > 0:
            numbers["event_delivery_share"] = round(delivered / (delivered + lost), 6)
    return {name: value for name, value in numbers.items() if value is not None}


def _upper95(exposed: float | None) -> float | None:
    """Return the rate of violations that so many clean requests exclude with 95 % certainty."""
    clean = math.floor(exposed or 0.0)
    return round(rate_excluded(clean, ISOLATION_CERTAINTY), 6) if clean >= 1 else None


def _net_leaks(metrics: MetricReading) -> int:
    return max(0, _count(metrics.session_leaks) - _count(metrics.session_leaks_retracted))


def _count(growth: float | None) -> int:
    """Return a growth as a count. `increase()` extrapolates to fractions: any growth at all is at least one."""
    return 0 if growth is None or growth <= 0 else max(1, round(growth))


def _known(growth: float | None) -> int | None:
    return None if growth is None else _whole(growth)


def _whole(growth: float) -> int:
    return max(0, round(growth))
