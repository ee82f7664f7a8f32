"""The error rate: is the canary's more than one percentage point above that of the concurrent control?

Three questions, three tests (canary-gates reference, 3.2). Roll back: a one-sided confidence sequence over blocks of
minutes, whose spread is measured between blocks, so bursts do not fool it. Roll back at once: the evidence of
how errors split between the arms, for disasters. Promote: an exact bound on the canary's rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from isolation_monitor.collector.gates.comparison import DISASTER, ComparisonPlan
from isolation_monitor.collector.gates.minutes import (
    RESEMBLANCE,
    Blocks,
    Counts,
    Minute,
    MinuteReading,
    blocks_of,
    independent_blocks,
)
from isolation_monitor.collector.gates.reasons import Numbers, Reason, too_few
from isolation_monitor.collector.gates.statistics import (
    design_effect,
    mean_and_sd,
    requests_needed,
    requests_needed_at,
    share_upper_bound,
    split_log_e_value,
)

TRIGGER: Final = "error_rate"
DISASTER_PP: Final = 5.0
DISASTER_ERRORS: Final = 20
DISASTER_EVIDENCE: Final = 1000.0
ASSUMED_ICC: Final = 0.05
"""How alike requests of one minute fail, until enough minutes were seen to measure it."""
_WINDOW: Final = 10
_LASTING: Final = 3
_NOTABLE_DESIGN_EFFECT: Final = 1.5
_RECENT_ROWS: Final = 10


def error_rate(plan: ComparisonPlan, reading: MinuteReading) -> tuple[list[Reason], Numbers]:
    """Return the reasons of this trigger and its numbers."""
    limit = plan.error_margin_pp / 100
    if plan.has_control:
        chosen = independent_blocks(reading.minutes, _difference)
    elif plan.slo_error_percent is not None:
        allowed = plan.slo_error_percent / 100
        chosen = independent_blocks(reading.minutes, lambda block: _rate(block) - allowed, both=False)
        limit = 0.0
    else:
        return [no_control(TRIGGER, "an error rate (slo_error_percent)")], {}
    total = _total(chosen.blocks)
    numbers = _numbers(plan, chosen, total)
    harm = _above(plan, chosen, limit)
    if harm is None and plan.has_control:
        harm = _disaster(plan, reading)
    if harm is not None:
        return [harm], numbers
    if not chosen.independent:
        return [resembling(TRIGGER, chosen)], numbers
    waiting = _evidence(plan, reading, chosen, numbers)
    return ([] if waiting is None else [waiting]), numbers


def no_control(trigger: str, promise: str) -> Reason:
    """Return that everybody has the new version and no absolute promise says what is too much."""
    detail = f"at 100 % nobody is left to compare with: keep a holdback, or promise {promise}"
    return Reason(trigger, "inconclusive", "no_control", detail)


def resembling(trigger: str, chosen: Blocks) -> Reason:
    detail = f"even blocks of {chosen.length} min resemble their neighbours (autocorrelation {chosen.resemblance:.2f}): no bound holds"
    return Reason(trigger, "error", "autocorrelated", detail, have=round(chosen.resemblance, 3), need=RESEMBLANCE)


def _difference(block: Minute) -> float:
    return block.on.errors / block.on.requests - block.off.errors / block.off.requests


def _rate(block: Minute) -> float:
    return block.on.errors / block.on.requests


def _total(blocks: list[Minute]) -> Minute | None:
    """Return requests and errors of all blocks together."""
    if not blocks:
        return None
    on = Counts(math.fsum(block.on.requests for block in blocks), math.fsum(block.on.errors for block in blocks))
    off = Counts(math.fsum(block.off.requests for block in blocks), math.fsum(block.off.errors for block in blocks))
    return Minute(blocks[0].start, on, off, sum(block.length for block in blocks))


def _numbers(plan: ComparisonPlan, chosen: Blocks, total: Minute | None) -> Numbers:
    if total is None:
        return {}
    numbers: Numbers = {
        "canary_requests": _count(total.on.requests),
        "canary_errors": _count(total.on.errors),
        "error_blocks": len(chosen.blocks),
        "error_block_minutes": chosen.length,
        "error_alpha": _rounded(plan.alpha_of(TRIGGER)),
    }
    if plan.has_control:
        numbers |= {"control_requests": _count(total.off.requests), "control_errors": _count(total.off.errors)}
    numbers["error_diff_pp"] = _rounded(mean_and_sd(chosen.values)[0] * 100)
    bounds = plan.bounds(TRIGGER, chosen.values)
    if bounds is not None:
        numbers |= {"error_diff_pp_low": _rounded(bounds[0] * 100), "error_diff_pp_high": _rounded(bounds[1] * 100)}
    numbers["error_design_effect"] = _rounded(_canary_design_effect(chosen.blocks, plan))
    return numbers


def _above(plan: ComparisonPlan, chosen: Blocks, limit: float) -> Reason | None:
    """The confidence sequence: certainly worse, and by more than the margin as far as one can tell."""
    bounds = plan.bounds(TRIGGER, chosen.values)
    if bounds is None or not chosen.independent:
        return None
    mean, low = mean_and_sd(chosen.values)[0], bounds[0]
    if not (low > 0 and mean > limit):
        return None
    against = "the control's" if plan.has_control else f"the {plan.slo_error_percent:g} % that are promised"
    detail = (
        f"{mean * 100:.2f} points above {against} over {len(chosen.values)} blocks, certainly above {max(low, 0.0) * 100:.2f}; "
        f"{limit * 100:g} may be"
    )
    code = "above_margin" if plan.has_control else "above_slo"
    return Reason(TRIGGER, "fail", code, detail, have=_rounded(mean * 100), need=limit * 100)


def _disaster(plan: ComparisonPlan, reading: MinuteReading) -> Reason | None:
    """The fast lane: whole minutes since the stage began, in windows of ten, so that a late disaster is seen as fast as an early one.

    Counts are divided by the design effect of bursts: at first of bursts as large as they are assumed to be at most, for
    nothing is measured yet; in later windows as they were measured before.
    Each window needs more evidence than the one before, so that all of them together err no more often than one.
    """
    blocks = blocks_of(reading.minutes)
    window, begun = divmod(max(0, len(blocks) - 1), _WINDOW)
    recent = blocks[-(begun + 1) :]
    total = _total(recent)
    if total is None or total.on.errors < DISASTER_ERRORS:
        return None
    on, off = total.on, total.off
    difference = on.errors / on.requests - off.errors / off.requests
    if difference * 100 <= DISASTER_PP:
        return None
    alike = ASSUMED_ICC
    if window:
        # Enough was seen before to measure it. A single burst might be the first of its kind: harm lasts, bursts do not.
        if len(recent) < _LASTING or min(_difference(block) for block in recent[-_LASTING:]) * 100 <= plan.error_margin_pp:
            return None
        alike = max(_alike(blocks[: -len(recent)], arm) for arm in (_on, _off))
    on_effect = 1 + max(0.0, on.requests / len(recent) - 1) * alike
    off_effect = 1 + max(0.0, off.requests / len(recent) - 1) * alike
    share = on.requests / on_effect / (on.requests / on_effect + off.requests / off_effect)
    needed = max(DISASTER_EVIDENCE, 1 / plan.alpha_of(DISASTER)) * (window + 1) * (window + 2)
    evidence = split_log_e_value(on.errors / on_effect, off.errors / off_effect, share)
    if evidence < math.log(needed):
        return None
    detail = f"{difference * 100:.1f} points above the control's within {len(recent)} blocks, {_count(on.errors)} errors"
    return Reason(TRIGGER, "fail", "disaster", detail, have=_rounded(difference * 100), need=DISASTER_PP)


def _canary_design_effect(blocks: list[Minute], plan: ComparisonPlan) -> float:
    """Return the canary's design effect, from how alike requests of a minute fail in either arm: the larger counts."""
    own = design_effect([block.on.errors for block in blocks], [block.on.requests for block in blocks])
    if not plan.has_control or not blocks:
        return own
    mean_on = math.fsum(block.on.requests for block in blocks) / len(blocks)
    return max(own, 1 + max(0.0, mean_on - 1) * _alike(blocks, _off))


def _alike(blocks: list[Minute], arm: Callable[[Minute], Counts]) -> float:
    """Return how alike requests of one minute fail, 0 to about 1: the intraclass correlation of one arm's errors."""
    requests = [arm(block).requests for block in blocks]
    effect = design_effect([arm(block).errors for block in blocks], requests)
    return (effect - 1) / max(1.0, math.fsum(requests) / max(1, len(requests)) - 1)


def _on(block: Minute) -> Counts:
    return block.on


def _off(block: Minute) -> Counts:
    return block.off


def _evidence(plan: ComparisonPlan, reading: MinuteReading, chosen: Blocks, numbers: Numbers) -> Reason | None:
    """Say what is missing for a promotion; None when the canary is proven not to be worse by the margin."""
    total = _total(chosen.blocks)
    if total is None or not total.on.requests:
        return None if not reading.minutes else _few_blocks(plan, chosen, reading)
    effect = numbers["error_design_effect"]
    margin = plan.error_margin_pp / 100
    if plan.has_control:
        # Upwards to a tenth of a point: the need must not flicker with each request of the control.
        base = math.ceil(total.off.errors / total.off.requests * 1000 - 1e-9) / 1000
        limit = total.off.errors / total.off.requests + margin
    else:
        base, limit = max(0.0, (plan.slo_error_percent or 0.0) / 100 - margin), (plan.slo_error_percent or 0.0) / 100
        margin = limit - base
    need = math.ceil(requests_needed(base, margin, plan.certainty) * effect)
    have = total.on.requests
    numbers["error_requests_needed"] = need
    per_s = traffic_s(reading, have)
    if have < need:
        bursts = effect >= _NOTABLE_DESIGN_EFFECT and have * effect >= need
        why = f" (errors come in bursts: {effect:.1f} times as many as if they came one by one)" if bursts else ""
        code = "bursts" if bursts else "min_samples"
        return too_few(TRIGGER, "canary requests", have, need, per_s, code=code, why=why)
    if len(chosen.values) < plan.min_blocks:
        return _few_blocks(plan, chosen, reading)
    high = share_upper_bound(total.on.errors / effect, have / effect, 1 - plan.certainty)
    numbers["canary_error_percent_high"] = _rounded(high * 100)
    if high < limit:
        return None
    observed = total.on.errors / have
    more = requests_needed_at(observed, limit, plan.certainty)
    if more is None:
        detail = f"{observed * 100:.2f} % of canary requests fail; as long as that is so, {limit * 100:.2f} % cannot be excluded"
        return Reason(TRIGGER, "inconclusive", "not_excluded", detail, have=_rounded(observed * 100), need=_rounded(limit * 100))
    return too_few(TRIGGER, "canary requests", have, max(math.ceil(more * effect), math.floor(have) + 1), per_s, code="not_excluded")


def _few_blocks(plan: ComparisonPlan, chosen: Blocks, reading: MinuteReading) -> Reason:
    have = len(chosen.values)
    need = plan.min_blocks
    elapsed_s = 60.0 * sum(minute.length for minute in reading.minutes)
    what = "blocks" if chosen.length == 1 else f"blocks of {chosen.length} min"
    return too_few(TRIGGER, what, have, need, elapsed_s, code="min_blocks")


def traffic_s(reading: MinuteReading, have: float) -> float:
    """Return how long it took to see `have` canary requests at the traffic of the last ten minutes."""
    recent = reading.minutes[-_RECENT_ROWS:]
    requests = math.fsum(minute.on.requests for minute in recent)
    seconds = 60.0 * sum(minute.length for minute in recent)
    return have * seconds / requests if requests > 0 else seconds


def _count(value: float) -> int:
    return round(value)


def _rounded(value: float) -> float:
    return round(value, 6)
