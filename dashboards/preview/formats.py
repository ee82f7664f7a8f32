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


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers between two bounds, for an axis."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, first + count + 3) if index * step <= high + 1e-9 * span]


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
