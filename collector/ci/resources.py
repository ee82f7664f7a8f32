"""What tests use and leave behind: one in one run, one over all of its runs, and which of a run used most.

Measured by the pytest plugin (`--isolation-resources`, docs/testing.md). Names carry their unit: seconds, bytes, numbers of things.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

LEAKED: Final = ("leaked_handles", "leaked_threads", "leaked_processes")
AMOUNTS: Final = ("wall_s", "cpu_s", "memory_peak_bytes", "memory_growth_bytes", *LEAKED)
"""Everything that is kept of a test. `memory_growth_bytes` stands instead of the peak where the system does not tell that."""
WORDS: Final = {"wall_s": "wall time", "cpu_s": "CPU", "memory_peak_bytes": "peak memory", "memory_growth_bytes": "memory growth"}
LEFT_CHARS: Final = 500

HEAVIEST: Final = 10
LEAKING_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Use:
    """What one test used in one run; a leak of zero is left out. `left_behind` names what it leaked."""

    amounts: Mapping[str, float]
    left_behind: str = ""

    @property
    def has_leaked(self) -> bool:
        return any(self.amounts.get(name, 0) > 0 for name in LEAKED)

    @property
    def memory_bytes(self) -> float | None:
        """Return the peak; where only the growth was measured, that."""
        return self.amounts.get("memory_peak_bytes", self.amounts.get("memory_growth_bytes"))


@dataclass(frozen=True, slots=True)
class Usage:
    """What one test used in the newest run that measured it, and at most in any."""

    latest: Use = field(default_factory=lambda: Use({}))
    latest_at: datetime | None = None
    most: Mapping[str, float] = field(default_factory=dict)
    leaked_at: datetime | None = None
    """When the newest run began in which it leaked."""

    def after(self, used: Use, at: datetime) -> Usage:
        """Return this with one more run, which began `at`: one that comes late changes what was most, and not what is newest."""
        is_newest = self.latest_at is None or at >= self.latest_at
        most = {name: max(self.most.get(name, 0.0), used.amounts.get(name, 0.0)) for name in {**self.most, **used.amounts}}
        leaked = [one for one in (self.leaked_at, at if used.has_leaked else None) if one is not None]
        return Usage(
            used if is_newest else self.latest, at if is_newest else self.latest_at, {name: most[name] for name in AMOUNTS if name in most},
            max(leaked, default=None),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Heaviest:
    """The tests of one run, by key, that used most memory and CPU, and those that leaked, the worst first."""

    memory: list[tuple[str, Use]]
    cpu: list[tuple[str, Use]]
    leaking: list[tuple[str, Use]]
    leaked: int
    """How many leaked in all; `leaking` ends at fifty."""

    @property
    def keys(self) -> set[str]:
        return {key for key, _ in (*self.memory, *self.cpu, *self.leaking)}


def use_of(amounts: Mapping[str, float], left_behind: str = "") -> Use | None:
    """Return what was measured of a test, of what somebody sent; None where that is nothing that is known here."""
    kept = {name: float(amounts[name]) for name in AMOUNTS if name in amounts and (amounts[name] > 0 or name not in LEAKED)}
    return Use(kept, left_behind[:LEFT_CHARS]) if kept else None


def heaviest(used: Mapping[str, Use]) -> Heaviest:
    """Return which tests of a run stand out."""
    leaking = {key: one for key, one in used.items() if one.has_leaked}
    return Heaviest(
        _most(used, HEAVIEST, lambda one: one.memory_bytes),
        _most(used, HEAVIEST, lambda one: one.amounts.get("cpu_s")),
        # Processes outlive the run, threads the test; a handle costs least.
        _most(leaking, LEAKING_SHOWN, lambda one: sum(one.amounts.get(name, 0) * cost for name, cost in zip(LEAKED, _COSTS, strict=True))),
        len(leaking),
    )


def usage_as_json(usage: Usage) -> dict[str, Any]:
    """Return it as it is stored; `usage_of` reads that."""
    return {
        "latest": dict(usage.latest.amounts),
        "left_behind": usage.latest.left_behind,
        "latest_at": _text(usage.latest_at),
        "most": dict(usage.most),
        "leaked_at": _text(usage.leaked_at),
    }


def usage_of(stored: Mapping[str, Any] | None) -> Usage | None:
    """Return what `usage_as_json` made."""
    if stored is None:
        return None
    latest = Use(stored["latest"], stored["left_behind"])
    return Usage(latest, _moment(stored["latest_at"]), stored["most"], _moment(stored["leaked_at"]))


_COSTS: Final = (1, 100, 10_000)


def _most(used: Mapping[str, Use], number: int, amount: Callable[[Use], float | None]) -> list[tuple[str, Use]]:
    weighed = [(weight, key) for key, one in used.items() if (weight := amount(one))]
    return [(key, used[key]) for _, key in heapq.nlargest(number, weighed)]


def _text(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
