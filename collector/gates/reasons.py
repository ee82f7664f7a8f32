"""Reasons: why a verdict is not `pass`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Verdict = Literal["pass", "fail", "inconclusive", "error"]
State = Literal["fail", "inconclusive", "error"]
Numbers = dict[str, float | int]

PRECEDENCE: Final[tuple[State, ...]] = ("fail", "error", "inconclusive")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a verdict is not `pass`: which trigger, how grave, a code for machines and a sentence for people."""

    trigger: str
    state: State
    code: str
    detail: str
    have: float | int | None = None
    need: float | int | None = None
    about_minutes: int | None = None
    examples: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return only what is known: a consumer never meets null."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items() if value not in (None, ())}


def too_few(trigger: str, what: str, have: float, need: int, elapsed_s: float, *, code: str = "min_samples", why: str = "") -> Reason:
    """Return that there is too little evidence, how much more it takes, and how long that lasts if traffic stays as it was."""
    whole = math.floor(max(have, 0.0))
    detail = f"{whole} of {need} {what}"
    minutes = None
    if whole:
        minutes = max(1, math.ceil((need - have) / have * elapsed_s / 60))
        detail += f"; needs {need - whole} more, about {minutes} min at the traffic so far"
    return Reason(trigger, "inconclusive", code, detail + why, have=whole, need=need, about_minutes=minutes)
