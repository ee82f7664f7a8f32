"""How well a comparison could see: gaps of scraping, restarts, numbers that are none, arms without traffic, arms of a wrong size."""

from __future__ import annotations

import math
from typing import Final

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.minutes import MinuteReading
from isolation_monitor.collector.gates.reasons import Reason
from isolation_monitor.collector.gates.statistics import two_sided_binomial

TOLERATED: Final = 0.2
"""Share of a stage's minutes that may be unseen, or in which processes may have restarted."""
MISMATCH_P: Final = 0.001
_RECENT: Final = 30
_FEW: Final = 5


def coverage(plan: ComparisonPlan, reading: MinuteReading) -> list[Reason]:
    """Return why the comparison cannot be made, or not now; nothing when it can."""
    if reading.problem is not None:
        return [Reason("source", "error", "source_unavailable", reading.problem)]
    seen = sum(minute.length for minute in reading.minutes)
    asked = seen + reading.unseen + reading.broken
    if not asked:
        return [Reason("comparison", "inconclusive", "min_blocks", "no whole minute of this stage is over yet", have=0, need=1)]
    reasons: list[Reason] = []
    if reading.broken > TOLERATED * asked:
        detail = f"{reading.broken} of {asked} minutes hold NaN or infinity instead of counts"
        reasons.append(Reason("comparison", "error", "nan", detail, have=reading.broken, need=0))
    if reading.unseen > max(TOLERATED * asked, 1):
        detail = f"{reading.unseen} of {asked} minutes have no sample: the service was not scraped, or did not count by rollout"
        reasons.append(Reason("comparison", "inconclusive", "scrape_gap", detail, have=seen, need=asked))
    recent = reading.minutes[-_RECENT:]
    restarted = sum(minute.restarted for minute in recent)
    if restarted > max(TOLERATED * len(recent), _FEW):
        detail = f"processes restarted in {restarted} of the last {len(recent)} minutes: counts of their last moments are lost"
        reasons.append(Reason("comparison", "inconclusive", "restarts", detail, have=restarted, need=_FEW))
    return reasons + _arms(plan, reading)


def _arms(plan: ComparisonPlan, reading: MinuteReading) -> list[Reason]:
    steady = [minute for minute in reading.minutes if not minute.shifted]
    on = math.fsum(minute.on.requests for minute in steady)
    off = math.fsum(minute.off.requests for minute in steady)
    if not steady:
        return []
    if on <= 0 and (off <= 0 or not plan.has_control):
        return [Reason("comparison", "inconclusive", "no_traffic", "neither arm served a request in this stage", have=0, need=1)]
    if on <= 0:
        return [Reason("comparison", "inconclusive", "no_canary_traffic", "no request had the flag on in this stage", have=0, need=1)]
    if not plan.has_control:
        return []
    if off <= 0:
        return [Reason("comparison", "inconclusive", "no_control", "no request had the flag off: there is nothing to compare with")]
    expected, share = plan.percent / 100, on / (on + off)
    # Requests come by user, so a binomial test of requests alone would find a mismatch in every service with regulars.
    far = abs(share - expected) > plan.mismatch_tolerance * min(expected, 1 - expected)
    if far and two_sided_binomial(on, on + off, expected) < MISMATCH_P:
        detail = f"{share * 100:.2f} % of requests had the flag on, {plan.percent:g} % should have: the arms are not comparable"
        return [
            Reason("comparison", "error", "sample_ratio_mismatch", detail, have=round(share * 100, 3), need=plan.percent),
        ]
    return []
