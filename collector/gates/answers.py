"""The last answer of each gate, which holds while a new look says the same.

Every answer that somebody was given is a stored decision. Gates are asked each second by some and each five seconds by the
collector itself: a row for each look would bury the decisions that matter. So a look that says what the last one said is
answered by that one, and stored only when something changed: the verdict, a reason, a tenth of what is missing, another
minute of a comparison, the plan; or a minute went by. A failure is never answered from here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from isolation_monitor.collector.gates.minutes import MinuteReading
from isolation_monitor.collector.gates.repository import Decision

Json = dict[str, Any]  # Any: gate/v1

KEPT: Final = timedelta(seconds=60)
"""An answer that says nothing new is stored so often, for its counts."""
_LIMIT: Final = 1_000
_STEPS: Final = 10
"""In so many steps what is missing comes."""


@dataclass(frozen=True, slots=True)
class _Last:
    decision: Decision
    minutes: MinuteReading | None


class LastAnswers:
    """The last stored decision of each rollout, for each stage that was asked for. Not shared between replicas: each stores its own."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], _Last] = OrderedDict()

    def instead_of(self, decision: Decision, stage: str, minutes: MinuteReading | None) -> Json | None:
        """Return the answer that was stored already and says what `decision` says; None where there is none."""
        last = self._last.get((decision.rollout, stage))
        if last is None or decision.verdict == "fail" or not _read_alike(last.minutes, minutes):
            return None
        before = last.decision
        same = before.config_sha256 == decision.config_sha256 and _said(before.answer) == _said(decision.answer)
        # A clock that was set back makes no answer older than it is.
        is_fresh = timedelta() <= decision.as_of - before.as_of < KEPT
        return before.answer if same and is_fresh else None

    def keep(self, decision: Decision, stage: str, minutes: MinuteReading | None) -> None:
        """Remember what was just stored. The one that was stored longest ago is forgotten when there are too many."""
        key = (decision.rollout, stage)
        self._last.pop(key, None)
        self._last[key] = _Last(decision, minutes)
        if len(self._last) > _LIMIT:
            self._last.popitem(last=False)


def _read_alike(one: MinuteReading | None, other: MinuteReading | None) -> bool:
    """Say whether no minute was read in between. What could not be read is alike as long as it is for the same reason."""
    unread = one is not None and other is not None and one.problem is not None and one.problem == other.problem
    return one is other or unread


def _said(answer: Json) -> Json:
    reasons = [(reason["trigger"], reason["state"], reason["code"], _progress(reason)) for reason in answer["reasons"]]
    return {"verdict": answer["verdict"], "reasons": reasons}


def _progress(reason: Json) -> float | None:
    """Return how many tenths are there of what a reason asks for; where nothing is asked for, what there is."""
    have: float | None = reason.get("have")
    need: float | None = reason.get("need")
    if have is None or not need:
        return have
    return min(_STEPS, math.floor(_STEPS * have / need))
