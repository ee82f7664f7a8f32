"""Whom violations touched: counted alike for a defect and for an incident."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from isolation_monitor.collector.distinct import Distinct

Json = dict[str, Any]  # Any: whatever JSON the sender put there

FORGOTTEN: Final = "forgotten"
"""Stands where a subject stood that was forgotten: nobody's hash, nobody's run."""
READ_FOR_AFFECTED: Final = 10_000
"""Records whose sides are read to count the users of all groups of one answer; beyond it the numbers are lower bounds."""


@dataclass(slots=True)
class Affected:
    """Whom violations touched: distinct principals and runs on either side, counted over records of all workers."""

    principals: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    active: int = 0
    """The most principals that one worker had live at one of these times."""
    is_lower_bound: bool = False
    _more_principals: Distinct | None = None
    _more_runs: Distinct | None = None

    def add(self, victim: Json | None, offender: Json | None, extra: Json) -> None:
        """Count one record. Fields of any shape are taken: they come as the sender put them."""
        sides = [side for side in (victim, offender) if isinstance(side, dict)]
        self.add_ids([side.get("principal") for side in sides], [side.get("run_id") for side in sides], extra.get("affected"))

    def add_ids(self, principals: Iterable[object], runs: Iterable[object], told: object) -> None:
        """Count one record by the ids of its sides, and by what it tells of others that it stands for."""
        self.principals.update(one for one in principals if isinstance(one, str) and one != FORGOTTEN)
        self.runs.update(one for one in runs if isinstance(one, str) and one != FORGOTTEN)
        if isinstance(told, dict):
            hashes, active = told.get("hashes"), told.get("active")
            if isinstance(hashes, list):
                self.principals.update(one for one in hashes if isinstance(one, str) and one != FORGOTTEN)
            if type(active) is int:
                self.active = max(self.active, active)
            self.is_lower_bound = self.is_lower_bound or told.get("at_least") is True

    def join(self, principals: bytes, runs: bytes, active: int, is_lower_bound: bool) -> None:
        """Count what was summed up before; the names of these are not known any more, but nobody is counted twice."""
        self._more_principals = self._more_principals or Distinct()
        self._more_runs = self._more_runs or Distinct()
        self._more_principals.join(principals)
        self._more_runs.join(runs)
        self.active = max(self.active, active)
        self.is_lower_bound = self.is_lower_bound or is_lower_bound

    def numbers(self) -> Numbers:
        principals, principals_estimated = _together(self.principals, self._more_principals)
        runs, runs_estimated = _together(self.runs, self._more_runs)
        estimated = principals_estimated or runs_estimated
        return Numbers(principals, runs, max(self.active, principals), self.is_lower_bound, estimated)


@dataclass(frozen=True, slots=True)
class Numbers:
    """How many were touched. `is_estimate`: there were so many that their number is known to about 5 %."""

    principals: int
    runs: int
    active: int
    is_lower_bound: bool
    is_estimate: bool


def _together(names: set[str], more: Distinct | None) -> tuple[int, bool]:
    if more is None:
        return len(names), False
    more.add(names)
    return len(more), more.is_estimate
