"""Minutes of a comparison: what both arms did in each, and the blocks that a test compares.

The arms share the minute, so whatever both met (a slow database, a busy hour) cancels in the difference. A block is one
minute or several; requests within a minute come in bursts and are never counted as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from isolation_monitor.collector.gates.statistics import lag1_autocorrelation

Arm = Literal["on", "off"]
Value = Callable[["Minute"], float]
"""What a test compares in a block."""
Size = Callable[["Counts"], float]
"""What makes an arm's part of a block large enough."""
Row = list[Any]  # Any: numbers and one text, as JSON

MIN_REQUESTS: Final = 5
"""A block in which an arm served fewer is merged with the next: its rate would be noise."""
MIN_BLOCKS: Final = 10
"""The spread between fewer blocks is not known well enough."""
LENGTHS: Final = (1, 2, 5)
"""Block lengths that are tried in turn where neighbours resemble each other."""
RESEMBLANCE: Final = 0.2
_CERTAIN: Final = 1.645
_KEPT_ROWS: Final = 400
_ROLLED: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300)
"""Lengths of rows in minutes; the longest ones are for backtests of months."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one arm did in a minute. `slow` of `timed` requests took too long; it may be a fraction, read between two edges."""

    requests: float = 0.0
    errors: float = 0.0
    timed: float = 0.0
    slow: float = 0.0
    delivered: float = 0.0
    lost: float = 0.0

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.timed + other.timed,
            self.slow + other.slow,
            self.delivered + other.delivered,
            self.lost + other.lost,
        )

    def as_row(self) -> Row:
        return [_short(value) for value in (self.requests, self.errors, self.timed, self.slow, self.delivered, self.lost)]


def requests_of(counts: Counts) -> float:
    return counts.requests


def timed_of(counts: Counts) -> float:
    return counts.timed


def owed_of(counts: Counts) -> float:
    return counts.delivered + counts.lost


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute, or several that could only be read together. `start` counts minutes since 1970.

    `shifted`: the share of traffic was changed in it, so that its arms served different users at different times.
    """

    start: int
    on: Counts
    off: Counts
    length: int = 1
    restarted: bool = False
    shifted: bool = False

    def as_row(self) -> Row:
        flags = ("r" if self.restarted else "") + ("w" if self.shifted else "")
        return [self.start, self.length, flags, *self.on.as_row(), *self.off.as_row()]

    @staticmethod
    def from_row(row: Row) -> Minute:
        start, length, flags, *numbers = row
        return Minute(start, Counts(*numbers[:6]), Counts(*numbers[6:]), length, "r" in flags, "w" in flags)

    def plus(self, other: Minute) -> Minute:
        return Minute(
            self.start,
            self.on.plus(other.on),
            self.off.plus(other.off),
            self.length + other.length,
            self.restarted or other.restarted,
            self.shifted or other.shifted,
        )


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long the requests of both arms took, over the whole stage: counts per bucket, not cumulative.

    `edges` are the upper edges in seconds without +Inf; both counts have one member more.
    """

    edges: tuple[float, ...]
    on: tuple[float, ...]
    off: tuple[float, ...]

    @staticmethod
    def from_json(value: dict[str, Any]) -> Histogram:
        return Histogram(tuple(value["edges"]), tuple(value["on"]), tuple(value["off"]))


@dataclass(frozen=True, slots=True)
class MinuteReading:
    """All that was read by minute since the stage began. `problem` says why nothing could be read.

    `unseen` minutes had no sample at all, `broken` ones held something that is no number; neither is in `minutes`.
    `slow_above_s` is the duration above which `slow` counts; `violations` were counted on the canary.
    """

    minutes: tuple[Minute, ...] = ()
    unseen: int = 0
    broken: int = 0
    violations: float = 0.0
    histogram: Histogram | None = None
    slow_above_s: float | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        histogram = self.histogram
        return {
            "minutes": [minute.as_row() for minute in self.minutes],
            "unseen": self.unseen,
            "broken": self.broken,
            "violations": self.violations,
            "histogram": None if histogram is None else {"edges": [*histogram.edges], "on": [*histogram.on], "off": [*histogram.off]},
            "slow_above_s": self.slow_above_s,
            "problem": self.problem,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> MinuteReading:
        given = dict(value)
        given["minutes"] = tuple(Minute.from_row(row) for row in given["minutes"])
        if given["histogram"] is not None:
            given["histogram"] = Histogram.from_json(given["histogram"])
        return MinuteReading(**given)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks ready to be compared, all of `length` minutes at least.

    `resemblance` is the autocorrelation that made longer blocks necessary; `independent` is False where even the longest
    resemble each other.
    """

    blocks: list[Minute] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    length: int = 1
    resemblance: float = 0.0
    independent: bool = True


def blocks_of(minutes: Iterable[Minute], length: int = 1, *, size: Size = requests_of, both: bool = True) -> list[Minute]:
    """Return blocks of `length` minutes; too small ones are merged with the next, shifted ones left out.

    What is left at the end, too small for a block, waits for more. `both`: the control's part must be large enough, too.
    """
    found: list[Minute] = []
    pending: Minute | None = None
    for minute in minutes:
        if minute.shifted:
            pending = None
            continue
        pending = minute if pending is None else pending.plus(minute)
        enough = size(pending.on) >= MIN_REQUESTS and (size(pending.off) >= MIN_REQUESTS or not both)
        if enough and pending.length >= length:
            found.append(pending)
            pending = None
    return found


def independent_blocks(minutes: Sequence[Minute], value: Value, *, size: Size = requests_of, both: bool = True) -> Blocks:
    """Return the blocks and their values, with blocks as long as it takes for neighbours not to resemble each other."""
    base = minutes[0].length if minutes else 1
    chosen = Blocks()
    for factor in LENGTHS:
        blocks = blocks_of(minutes, base * factor, size=size, both=both)
        values = [value(block) for block in blocks]
        resemblance = _resemblance(values)
        # Of few blocks also independent ones resemble each other by chance.
        independent = resemblance <= max(RESEMBLANCE, _CERTAIN / max(len(values), 1) ** 0.5)
        chosen = Blocks(blocks, values, base * factor, resemblance, independent)
        if independent:
            break
    return chosen


def _resemblance(values: Sequence[float]) -> float:
    """Return how much neighbours resemble each other.

    A harm that begins in the middle makes neighbours alike, too: before it all are low, after it all are high. It does so
    in one half of the stage only, bursts that last do so in both. So the least of the halves and the whole counts.
    """
    if len(values) < MIN_BLOCKS:
        return 0.0
    parts = [values] if len(values) < 2 * MIN_BLOCKS else [values, values[: len(values) // 2], values[len(values) // 2 :]]
    return min(lag1_autocorrelation(part) for part in parts)


def rolled_up(minutes: Sequence[Minute]) -> tuple[Minute, ...]:
    """Return at most about 400 rows: a stage of days is kept in longer blocks, so that its decisions stay small."""
    length = _row_length(len(minutes))
    if length == 1:
        return tuple(minutes)
    rows: list[Minute] = []
    for minute in minutes:
        _put(rows, minute, length)
    return tuple(rows)


class Rows:
    """Minutes that come one by one: at each moment what `rolled_up` makes of those so far, without beginning anew for each."""

    def __init__(self) -> None:
        self._minutes: list[Minute] = []
        self._rows: list[Minute] = []
        self._length = 1

    def add(self, minute: Minute) -> None:
        self._minutes.append(minute)
        length = _row_length(len(self._minutes))
        if length == self._length:
            _put(self._rows, minute, length)
        else:
            # Nine times at most, each time after about twice as many minutes as the time before.
            self._rows, self._length = list(rolled_up(self._minutes)), length

    def rows(self) -> tuple[Minute, ...]:
        return tuple(self._rows)


def _row_length(minutes: int) -> int:
    return next((length for length in _ROLLED if minutes <= length * _KEPT_ROWS), _ROLLED[-1])


def _put(rows: list[Minute], minute: Minute, length: int) -> None:
    """Add a minute to the last row if it belongs into it, else begin a row with it."""
    last = rows[-1] if rows and length > 1 else None
    if last is None or last.shifted != minute.shifted or last.start // length != minute.start // length:
        rows.append(minute)
    else:
        rows[-1] = last.plus(minute)


def _short(value: float) -> float | int:
    """Whole counts read better without a point; fractions need no more than a thousandth."""
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded
