"""Numbers as Grafana shows them, for the units that our dashboards use, and the colour of a value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

_COLORS: Final[dict[str, str]] = {
    "green": "#56b36b",
    "yellow": "#e8b23a",
    "orange": "#f08838",
    "red": "#ee5566",
    "blue": "#6fa8ff",
    "purple": "#b98bf0",
}
PALETTE: Final = (
    "#73bf69",
    "#f2cc0c",
    "#8ab8ff",
    "#ff9f43",
    "#e36bae",
    "#b98bf0",
    "#4fd1c5",
    "#ef6461",
    "#a3b763",
    "#c6c6cc",
    "#5794f2",
    "#d9a066",
)
"""Colours of series, in order."""

_CLOCK_STEPS_S: Final = (2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_SUFFIX: Final = {"reqps": " req/s", "cps": " /s", "ops": " /s", "percent": " %", "percentunit": " %", "ms": " ms", "d": " d"}


class UnknownUnitError(ValueError):
    """A unit that this preview cannot show."""


def number(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a value with its unit, such as `99.97 %` or `1.25 s`.

    Raises:
        UnknownUnitError: no dashboard of ours uses this unit.
    """
    if unit == "percentunit":
        value *= 100
    if unit == "s":
        return _seconds(value, decimals)
    if unit == "bytes":
        return _bytes(value, decimals)
    if unit not in _SUFFIX and unit not in ("none", "short"):
        raise UnknownUnitError(f"unit {unit!r} has no format in the preview: add it to formats.py")
    return _trimmed(value, decimals) + _SUFFIX.get(unit, "")


def color(name: str) -> str:
    """Return a Grafana colour name as a hexadecimal colour."""
    return _COLORS.get(name, name)


def step_color(value: float, steps: Sequence[tuple[float | None, str]], default: str = "#d7dae0") -> str:
    """Return the colour of the last threshold that the value reaches."""
    found = default
    for start, name in steps:
        if start is None or value >= start:
            found = color(name)
    return found


def legend(pattern: str, labels: Mapping[str, str]) -> str:
    """Return a series' name; without a pattern, its labels."""
    if not pattern:
        return ", ".join(value for name, value in labels.items() if name != "__name__") or "value"
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match.group(1), ""), pattern)


def ticks(low: float, high: float, unit: str = "none", count: int = 4) -> list[float]:
    """Return numbers between two bounds that are round in their unit, for an axis.

    >>> [number(value, "s") for value in ticks(0, 86_400, "s")], [number(value, "bytes") for value in ticks(0, 60e6, "bytes")]
    (['0 s', '6 h', '12 h', '18 h', '24 h'], ['0 B', '16 MiB', '32 MiB', '48 MiB'])
    """
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / count
    step = _round_step(raw, unit)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, first + count + 3) if index * step <= high + 1e-9 * span]


def _round_step(raw: float, unit: str) -> float:
    """Return a round step of at least `raw`: whole minutes and hours of seconds, powers of two of bytes."""
    if unit == "bytes" and raw > 1:
        return float(2 ** math.ceil(math.log2(raw)))
    if unit == "s" and (clock := next((step for step in _CLOCK_STEPS_S if 1 < raw <= step), None)):
        return float(clock)
    size = float(10 ** math.floor(math.log10(raw)))
    return next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw)


def _bytes(value: float, decimals: int | None) -> str:
    for suffix in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{_trimmed(value, decimals)} {suffix}"
        value /= 1024
    return f"{_trimmed(value, decimals)} TiB"


def _seconds(value: float, decimals: int | None) -> str:
    if value == 0:
        return "0 s"
    for limit, factor, suffix in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if abs(value) < limit:
            return f"{_trimmed(value * factor, decimals)} {suffix}"
    return f"{_trimmed(value / 3600, decimals)} h"


def _trimmed(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 1000 else 0
    text = f"{value:,.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
