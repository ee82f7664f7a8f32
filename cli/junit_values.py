"""Numbers and times as runners write them into JUnit XML: with commas, without offsets, not at all."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

MOST_ATTEMPTS: Final = 1_000_000
_LONGEST_S: Final = 10 * 365 * 86_400.0
"""A duration beyond this was not measured: a clock that was set, or milliseconds of an epoch."""


def seconds(text: str | None) -> float | None:
    """Return a number that a runner wrote, in whatever notation; None where there is none that can be used.

    >>> seconds("1,234.5"), seconds("1.234,5"), seconds("0,5"), seconds("NaN")
    (1234.5, 1234.5, 0.5, None)
    """
    if text is None:
        return None
    plain = re.sub(r"[\s\u00a0\u202f's]", "", text)
    comma, dot = plain.rfind(","), plain.rfind(".")
    if comma >= 0 and dot >= 0:
        plain = plain.replace(",", "") if dot > comma else plain.replace(".", "").replace(",", ".")
    elif plain.count(",") == 1:
        plain = plain.replace(",", ".")
    else:
        plain = plain.replace(",", "")
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def duration(text: str | None) -> float | None:
    value = seconds(text)
    return value if value is not None and value <= _LONGEST_S else None


def count(text: str | None) -> int:
    return int(min(seconds(text) or 0, MOST_ATTEMPTS))


def moment_of(text: str | None) -> datetime | None:
    """Return a time stamp that says its offset. One without may be off by a day's half: the caller's clock is better."""
    try:
        moment = datetime.fromisoformat((text or "").strip())
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
