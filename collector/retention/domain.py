"""Retention in plain values: which days go, what a round did, how full the disk is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

AHEAD_DAYS: Final = 7
"""Partitions are there so many days before they are needed: so long may nobody lead."""
BEHIND_DAYS: Final = 1

_FEW, _MANY = 50, 5_000
_QUICK_S, _SLOW_S = 0.015, 0.04


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept. `max_bytes` 0: as much as `days` need."""

    days: int = 30
    max_bytes: int = 0

    def first_kept(self, now: datetime) -> date:
        """Return the oldest day that is kept: `days` full days, and today."""
        return now.astimezone(UTC).date() - timedelta(days=self.days)


def wanted_partitions(now: datetime) -> list[date]:
    """Return the days that need a partition, from yesterday on."""
    today = now.astimezone(UTC).date()
    return [today + timedelta(days=n) for n in range(-BEHIND_DAYS, AHEAD_DAYS + 1)]


def too_many_days(bytes_by_day: Mapping[date, int], used: int, max_bytes: int, today: date) -> list[date]:
    """Return the oldest days that have to go until `max_bytes` hold; never today.

    >>> too_many_days({date(2026, 1, 1): 60, date(2026, 1, 2): 50}, 110, 100, date(2026, 1, 3))
    [datetime.date(2026, 1, 1)]
    """
    gone = []
    for day in sorted(bytes_by_day):
        if used <= max_bytes or day >= today:
            break
        gone.append(day)
        used -= bytes_by_day[day]
    return gone


@dataclass(slots=True)
class Chunk:
    """How many rows one transaction deletes: as many as take about 30 ms here and now, so that writers wait no longer."""

    rows: int = 100

    def took(self, seconds: float) -> None:
        if seconds > _SLOW_S:
            self.rows = max(_FEW, int(self.rows * max(0.2, _SLOW_S / seconds / 1.5)))
        elif seconds < _QUICK_S:
            self.rows = min(_MANY, self.rows * 3 // 2)


@dataclass(slots=True)
class Round:
    """What one round of housekeeping did: rows that expired by table, partitions dropped whole (their rows are not counted one by one)."""

    expired: dict[str, int] = field(default_factory=dict)
    partitions_made: int = 0
    partitions_dropped: int = 0
    longest_s: float = 0.0
    """The longest time for which writers had to wait for a transaction of this round."""

    def add(self, table: str, rows: int, seconds: float) -> None:
        self.expired[table] = self.expired.get(table, 0) + rows
        self.longest_s = max(self.longest_s, seconds)


@dataclass(frozen=True, slots=True)
class Disk:
    """How full the disk of an SQLite file is; 0-1."""

    used_ratio: float
    limit: float

    @property
    def is_full(self) -> bool:
        return self.used_ratio >= self.limit
