"""How grave a record is: where there is no room for all, the least grave goes first and what crossed to somebody goes last."""

from __future__ import annotations

from typing import Any, Final

NUMBERS: Final = 0
"""Runs and statements: what the metrics tell as well; and what detectors saw of planted faults."""
HYGIENE: Final = 1
REACHABLE: Final = 2
CROSSED: Final = 3

_OF_GRADE: Final = {"hygiene": HYGIENE, "reachable": REACHABLE, "crossed": CROSSED}
_SHARES: Final = (0.5, 0.75, 0.9, 1.0)
"""How much of a bounded room, memory or disk, records of a gravity may fill, so that a flood of runs leaves room for a violation."""


def gravity(record: dict[str, Any]) -> int:  # Any: JSON
    """Return how grave a record is, 0 to 3. Amendments carry the grade of what they amend; what is unknown counts as `reachable`."""
    if record.get("synthetic") is True or record.get("type") in ("run", "queues"):
        return NUMBERS
    return _OF_GRADE.get(record.get("grade", ""), REACHABLE)


def of_grade(grade: str) -> int | None:
    """Return the gravity of a grade; None for the empty text."""
    return _OF_GRADE.get(grade)


def rooms(limit: int) -> tuple[int, ...]:
    """Return, by gravity, how much of `limit` may be filled before a record of that gravity is refused. At least one each, if any.

    >>> rooms(10_000)
    (5000, 7500, 9000, 10000)
    """
    return tuple(max(min(limit, 1), int(limit * share)) for share in _SHARES)
