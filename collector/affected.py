"""Whom violations touched: counted alike for a defect and for an incident."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

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

    def add(self, victim: Json | None, offender: Json | None, extra: Json) -> None:
        """Count one record. Fields of any shape are taken: they come as the sender put them."""
        for side in (victim, offender):
            if isinstance(side, dict):
                if isinstance(principal := side.get("principal"), str) and principal != FORGOTTEN:
                    self.principals.add(principal)
                if isinstance(run := side.get("run_id"), str) and run != FORGOTTEN:
                    self.runs.add(run)
        told = extra.get("affected")
        if isinstance(told, dict):
            hashes, active = told.get("hashes"), told.get("active")
            if isinstance(hashes, list):
                self.principals.update(one for one in hashes if isinstance(one, str) and one != FORGOTTEN)
            if type(active) is int:
                self.active = max(self.active, active)
            self.is_lower_bound = self.is_lower_bound or told.get("at_least") is True
