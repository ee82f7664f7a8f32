"""The delivery rate of a stage: are fewer than 95 % of the canary's owed events delivered?

The error rate's test, turned around: the share that was lost, block by block, against the 5 % that may be.
"""

from __future__ import annotations

import math
from typing import Final

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.error_rate import ASSUMED_ICC, DISASTER_EVIDENCE
from isolation_monitor.collector.gates.minutes import MIN_BLOCKS, MinuteReading, blocks_of, owed_of
from isolation_monitor.collector.gates.reasons import Numbers, Reason
from isolation_monitor.collector.gates.statistics import share_upper_bound

TRIGGER: Final = "delivery"
_MIN_LOST: Final = 20
"""As many as the disasters of the error rate: before ten blocks, a few lost events prove nothing."""


def delivery_rate(plan: ComparisonPlan, reading: MinuteReading, floor_percent: float) -> tuple[list[Reason], Numbers]:
    """Return the reasons of this trigger and its numbers; nothing where no event was owed."""
    may_be_lost = 1 - floor_percent / 100
    if not any(owed_of(minute.on) for minute in reading.minutes):
        return [], {}
    blocks = blocks_of(reading.minutes, size=owed_of, both=False)
    if not blocks:
        return [], {}
    delivered = math.fsum(block.on.delivered for block in blocks)
    owed = delivered + math.fsum(block.on.lost for block in blocks)
    numbers: Numbers = {
        "canary_owed_events": round(owed),
        "canary_delivery_share": round(delivered / owed, 6),
        "delivery_alpha": round(plan.alpha_of(TRIGGER), 6),
    }
    lost = [block.on.lost / (block.on.lost + block.on.delivered) for block in blocks]
    bounds = plan.bounds(TRIGGER, lost)
    if bounds is not None:
        numbers["canary_lost_share_low"] = round(max(0.0, bounds[0]), 6)
        certain = bounds[0] > may_be_lost
    else:
        certain = owed - delivered >= _MIN_LOST and _certain_early(delivered, owed, len(blocks), floor_percent / 100)
    if not certain:
        return [], numbers
    share = round(100 * delivered / owed, 2)
    detail = f"{share} % of the canary's {round(owed)} owed events were delivered, certainly less than the {floor_percent:g} % that must be"
    return [Reason(TRIGGER, "fail", "below_floor", detail, have=share, need=floor_percent)], numbers


def _certain_early(delivered: float, owed: float, blocks: int, floor: float) -> bool:
    """Before ten blocks the spread between them is not known: bursts are assumed as large as they may be."""
    effect = 1 + max(0.0, owed / blocks - 1) * ASSUMED_ICC
    return share_upper_bound(delivered / effect, owed / effect, 1 / DISASTER_EVIDENCE / MIN_BLOCKS) < floor
