"""What `/metrics` shows of gates: the verdict of each rollout, and the numbers beside what they are held to.

An answer is shown for ten minutes. A gate that nobody evaluates any more says nothing: a plain gauge would freeze on its
last verdict, and a rollout tool that reads it would take an old pass for a new one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from isolation_monitor.telemetry.names import OTHER

Json = Mapping[str, Any]  # Any: gate/v1

GATE_VERDICTS: Final = ("pass", "fail", "inconclusive", "error")
STALE_AFTER_S: Final = 600.0
_ROLLOUT_CAP: Final = 200
_NUMBER_CAP: Final = 60
"""Names of numbers of one answer; the gate has some twenty."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """The last evaluation of a rollout. `seen_s` is of the monotonic clock: clocks that are set must not hide or keep a verdict."""

    verdict: str
    at_unix_s: float
    seen_s: float
    answer: Json | None = None


class GateMetrics(Collector):
    """Gauges of the last answers, made when they are read."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._shown: dict[str, _Shown] = {}

    def evaluated(self, rollout: str, verdict: str, at_unix_s: float) -> None:
        """Show the verdict of `rollout`. The longest unseen rollout leaves when there are too many."""
        self._shown.pop(rollout, None)
        self._shown[rollout] = _Shown(verdict, at_unix_s, self._monotonic())
        if len(self._shown) > _ROLLOUT_CAP:
            del self._shown[next(iter(self._shown))]

    def answered(self, answer: Json) -> None:
        """Show the numbers of the answer that was just evaluated."""
        last = self._shown.get(str(answer["rollout"]))
        if last is not None:
            self._shown[str(answer["rollout"])] = _Shown(last.verdict, last.at_unix_s, last.seen_s, answer)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every gauge, also those without a sample: the documentation lists what is here."""
        verdict = GaugeMetricFamily(
            "isolation_gate_verdict",
            "1 for the verdict that the last evaluation of a rollout gave, 0 for the others. Gone ten minutes after the last evaluation.",
            labels=["rollout", "verdict"],
        )
        evaluated = GaugeMetricFamily(
            "isolation_gate_last_evaluation_timestamp_seconds", "Unix time of the last evaluation of a rollout's gate.", labels=["rollout"]
        )
        code = GaugeMetricFamily(
            "isolation_gate_verdict_code",
            "The same as a number: 1 pass, 0 inconclusive, -1 fail, -2 error.",
            labels=["service", "rollout"],
        )
        evidence = GaugeMetricFamily(
            "isolation_gate_evidence_ratio",
            "Evidence so far by evidence needed, of the trigger that lacks most, 0-1; none where it cannot be counted.",
            labels=["service", "rollout"],
        )
        waiting = GaugeMetricFamily(
            "isolation_gate_waiting_seconds",
            "Age of the evidence of a rollout whose gate is inconclusive or in error; 0 with pass and fail.",
            labels=["service", "rollout"],
        )
        value = GaugeMetricFamily(
            "isolation_gate_value", "What the gate counted, by the name it has in the answer.", labels=["service", "rollout", "name"]
        )
        threshold = GaugeMetricFamily(
            "isolation_gate_threshold", "What the gate holds its numbers to, by name.", labels=["service", "rollout", "name"]
        )
        for rollout, shown in self._shown.items():
            evaluated.add_metric([rollout], shown.at_unix_s)
            if self._monotonic() - shown.seen_s > STALE_AFTER_S:
                continue
            for name in GATE_VERDICTS:
                verdict.add_metric([rollout, name], 1 if name == shown.verdict else 0)
            if shown.answer is None:
                continue
            about = [str(shown.answer.get("service", OTHER)), rollout]
            code.add_metric(about, shown.answer["verdict_code"])
            waiting.add_metric(about, _waiting_s(shown.answer))
            ratio = evidence_ratio(shown.answer)
            if ratio is not None:
                evidence.add_metric(about, ratio)
            for family, numbers in ((value, shown.answer.get("metrics")), (threshold, shown.answer.get("thresholds"))):
                for name, number in _numbers(numbers):
                    family.add_metric([*about, name], number)
        yield from (verdict, evaluated, code, evidence, waiting, value, threshold)


def evidence_ratio(answer: Json) -> float | None:
    """Return how much of the evidence is there, 0-1, by the trigger that lacks most; None while the gate cannot look.

    >>> evidence_ratio({"verdict": "inconclusive", "reasons": [{"state": "inconclusive", "have": 210, "need": 420}]})
    0.5
    """
    if answer["verdict"] == "error":
        return None
    missing = [reason for reason in answer.get("reasons") or () if reason.get("state") == "inconclusive"]
    return min((_share(reason) for reason in missing), default=1.0)


def _share(reason: Json) -> float:
    """Return have by need of one reason; what names neither (no traffic at all) has nothing."""
    have, need = reason.get("have"), reason.get("need")
    if not isinstance(have, int | float) or not isinstance(need, int | float) or need <= 0:
        return 0.0
    return min(1.0, max(0.0, have / need))


def _waiting_s(answer: Json) -> float:
    if answer["verdict"] not in ("inconclusive", "error"):
        return 0.0
    try:
        began, now = (datetime.fromisoformat(str(answer[key])) for key in ("started_at", "as_of"))
    except (KeyError, ValueError):
        return 0.0
    return max(0.0, (now - began).total_seconds())


def _numbers(numbers: Json | None) -> Iterator[tuple[str, float]]:
    for name, number in list((numbers or {}).items())[:_NUMBER_CAP]:
        if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
            yield name, number
