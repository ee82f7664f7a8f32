"""Counts per minute from a CSV: `minute,arm,requests,errors,slow,violations`, and `weight` where the share of users changed.

`minute` is a time such as 2026-01-01T12:00Z or a whole number of minutes; `arm` is on or off; `slow` are requests above a
duration of the author's choice, of which 5 % may be; `weight` is the percentage of users that should have the flag on.
A minute without a line was not seen; a line with NaN makes its minute broken.
"""

from __future__ import annotations

import csv
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from isolation_monitor.collector.gates.minutes import Counts, Minute, MinuteReading, Rows

COLUMNS: Final = ("minute", "arm", "requests", "errors", "slow", "violations")
WEIGHT: Final = "weight"
MAX_MINUTES: Final = 100_000
"""Between the first minute and the last: more is a mistake in the first column."""


class CsvError(ValueError):
    """The file cannot be read; the text names the line, what was found and what to write."""


@dataclass(slots=True)
class CountedMinute:
    """One minute of the file."""

    on: Counts = field(default_factory=Counts)
    off: Counts = field(default_factory=Counts)
    violations: float = 0.0
    broken: bool = False
    weight: float | None = None
    arms: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class CountedStage:
    """Consecutive minutes of one weight; None where the file does not name it."""

    weight: float | None
    first: int
    last: int
    minutes: dict[int, CountedMinute]
    shifted: int | None
    """Minute in which the weight changed to this one: its arms are not comparable."""

    def share_on(self) -> float:
        """Return the share of requests that had the flag on."""
        on = math.fsum(minute.on.requests for minute in self.minutes.values())
        every = on + math.fsum(minute.off.requests for minute in self.minutes.values())
        return on / every if every else 0.0


class StageReader:
    """Says what was known of a stage at the end of one minute after the other: each minute is looked at once."""

    def __init__(self, stage: CountedStage) -> None:
        self._stage = stage
        self._timed = any(minute.on.slow or minute.off.slow for minute in stage.minutes.values())
        self._waiting = deque(sorted(stage.minutes.items()))
        self._rows = Rows()
        self._broken = 0
        self._violations: list[float] = []
        self._until = stage.first - 1

    def reading(self, until: int) -> MinuteReading:
        """Return what was known at the end of a minute, which is none before the last one that was asked for.

        Raises:
            ValueError: it is one before.
        """
        if until < self._until:
            raise ValueError(f"minute {until} is over, {self._until} was asked for already: ask in order, or take another reader")
        self._until = until
        while self._waiting and self._waiting[0][0] <= until:
            number, minute = self._waiting.popleft()
            if minute.violations:
                self._violations.append(minute.violations)
            if minute.broken:
                self._broken += 1
                continue
            on, off = _timed(minute.on, self._timed), _timed(minute.off, self._timed)
            self._rows.add(Minute(number, on, off, shifted=number == self._stage.shifted))
        return MinuteReading(
            self._rows.rows(),
            unseen=until - self._stage.first + 1 - (len(self._stage.minutes) - len(self._waiting)),
            broken=self._broken,
            violations=math.fsum(self._violations),
            slow_above_s=0.0 if self._timed else None,
        )


def read_csv(lines: Iterable[str], name: str) -> list[CountedStage]:
    """Return the stages of a file, in order.

    Raises:
        CsvError: a line cannot be used.
    """
    rows = csv.reader(lines)
    header = [cell.strip() for cell in next(rows, [])]
    if header not in ([*COLUMNS], [*COLUMNS, WEIGHT]):
        raise CsvError(f"{name}:1: the first line is {','.join(header)[:80]!r}: write {','.join(COLUMNS)} (and {WEIGHT}, if you like)")
    minutes: dict[int, CountedMinute] = {}
    for cells in rows:
        if not cells:
            continue
        where = f"{name}:{rows.line_num}"
        if len(cells) != len(header):
            raise CsvError(f"{where}: {len(cells)} columns, the first line has {len(header)}")
        _add(minutes, dict(zip(header, (cell.strip() for cell in cells), strict=True)), where)
    if not minutes:
        raise CsvError(f"{name}: no minute in it: write a line for each minute and arm")
    if max(minutes) - min(minutes) > MAX_MINUTES:
        raise CsvError(f"{name}: from the first minute to the last are {max(minutes) - min(minutes)}: is the first column right?")
    return _stages(minutes)


def _add(minutes: dict[int, CountedMinute], row: dict[str, str], where: str) -> None:
    minute = minutes.setdefault(_minute(row["minute"], where), CountedMinute())
    arm = row["arm"]
    if arm not in ("on", "off"):
        raise CsvError(f"{where}: arm {arm[:40]!r}: write on (the new version) or off")
    if arm in minute.arms:
        raise CsvError(f"{where}: a second line for arm {arm} of minute {row['minute'][:40]}")
    minute.arms.add(arm)
    requests, errors, slow, violations = (_number(row[name], name, where) for name in COLUMNS[2:])
    if any(math.isnan(value) for value in (requests, errors, slow, violations)):
        minute.broken = True
        return
    for name, value in (("errors", errors), ("slow", slow)):
        if value > requests:
            raise CsvError(f"{where}: {name} {value:g} of {requests:g} requests")
    counts = Counts(requests, errors, 0.0, slow)
    if arm == "on":
        minute.on = counts
        minute.violations += violations
    else:
        minute.off = counts
    if WEIGHT in row:
        weight = _number(row[WEIGHT], WEIGHT, where)
        if not 0 < weight <= 100:
            raise CsvError(f"{where}: weight {row[WEIGHT]}: write a percentage above 0, at most 100")
        if minute.weight not in (None, weight):
            raise CsvError(f"{where}: the arms of one minute have different weights")
        minute.weight = weight


def _minute(text: str, where: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CsvError(f"{where}: minute {text[:40]!r}: write a time such as 2026-01-01T12:00Z, or a whole number") from None
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / 60)


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise CsvError(f"{where}: {name} {text[:40]!r} is no number") from None
    if value < 0 or math.isinf(value):
        raise CsvError(f"{where}: {name} {text[:40]} is no count")
    return value


def _stages(minutes: dict[int, CountedMinute]) -> list[CountedStage]:
    stages: list[CountedStage] = []
    for number in sorted(minutes):
        minute = minutes[number]
        if stages and (minute.weight is None or stages[-1].weight == minute.weight):
            before = stages.pop()
            before.minutes[number] = minute
            stages.append(replace(before, last=number))
        else:
            # The change lies somewhere in the first minute of the new weight, or at its edge.
            stages.append(CountedStage(minute.weight, number, number, {number: minute}, number if stages else None))
    return stages


def _timed(counts: Counts, timed: bool) -> Counts:
    return Counts(counts.requests, counts.errors, counts.requests if timed else 0.0, counts.slow)
