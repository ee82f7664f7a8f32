"""The numbers of each rollout by arm, in cells as all others: requests, how long they took, and violations.

Made of requests that evaluated a flag. Synthetic traffic is in none of them: it decides nothing. Series are bounded: the registry
tells `ROLLOUT_LIMIT` rollouts apart and counts what is beyond under `other`. All series of a rollout are there at 0 as soon as it
is known, so that its first error or violation is an increase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from isolation_monitor.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.metrics.cells import Cell, HistogramCell
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.violations import Violation

K = TypeVar("K")
V = TypeVar("V")

_REASONS: Final = {reason.upper(): reason for reason in names.FLAG_REASONS}


class RolloutCells:
    """The cells of all rollouts of one process."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._registry = registry
        self._requests: dict[tuple[str, str, bool], Cell] = {}
        self._durations: dict[tuple[str, str], HistogramCell] = {}
        self._evaluations: dict[tuple[str, str], Cell] = {}

    def know(self, rollouts: Iterable[str]) -> None:
        """Let all series of these rollouts be there."""
        for rollout in rollouts:
            for arm in names.ARMS:
                for failed in (False, True):
                    self._request(rollout, arm, failed)
                for grade in names.GRADES:
                    self._registry.counter(names.GATE_VIOLATIONS, rollout=rollout, arm=arm, grade=grade)
            for arm in names.VARIANTS:
                self._duration(rollout, arm)
            for reason in names.FLAG_REASONS:
                self._evaluation(rollout, reason)

    def evaluated(self, rollout: str, reason: str | None) -> None:
        """Count one evaluation of a flag by its reason, in OpenFeature's words."""
        known = _REASONS.get(str(reason), names.OTHER)
        (self._evaluations.get((rollout, known)) or self._evaluation(rollout, known)).inc()

    def ended(self, request: RequestContext, failed: bool, seconds: float | None) -> None:
        """Count a request that is over.

        Args:
            failed: it failed on the server's side.
            seconds: how long it took; None where nobody can tell.
        """
        arms = request.arms
        if arms is None or (request.principal is not None and request.principal.is_synthetic):
            return
        for rollout, arm in arms.by_rollout.items():
            (self._requests.get((rollout, arm, failed)) or self._request(rollout, arm, failed)).inc()
            if seconds is not None and arm in names.VARIANTS:
                (self._durations.get((rollout, arm)) or self._duration(rollout, arm)).observe(seconds)

    def violated(self, violation: Violation) -> None:
        """Count a violation for each rollout that its requests had evaluated."""
        for rollout, arm in violation.rollouts.items():
            self._registry.counter(names.GATE_VIOLATIONS, rollout=rollout, arm=arm, grade=violation.grade).inc()

    def _request(self, rollout: str, arm: str, failed: bool) -> Cell:
        outcome = "error" if failed else "ok"
        cell = self._registry.counter(names.GATE_REQUESTS, rollout=rollout, arm=arm, outcome=outcome)
        return _kept(self._requests, (rollout, arm, failed), cell)

    def _duration(self, rollout: str, arm: str) -> HistogramCell:
        return _kept(self._durations, (rollout, arm), self._registry.histogram(names.GATE_DURATION, rollout=rollout, arm=arm))

    def _evaluation(self, rollout: str, reason: str) -> Cell:
        return _kept(self._evaluations, (rollout, reason), self._registry.counter(names.FLAG_EVALUATIONS, rollout=rollout, reason=reason))


def _kept(cells: dict[K, V], key: K, cell: V) -> V:
    """Remember a cell; not beyond a number, since flags' names may come from anywhere."""
    if len(cells) < names.ROLLOUT_LIMIT * 16:
        cells[key] = cell
    return cell
