"""The day under which a record is kept: part of its key, what partitions are cut by and what expires as a whole.

A record that is sent again must meet its own row, so the day follows from what never changes: the time inside a UUIDv7
(RFC 9562, section 5.7: 48 bits of Unix milliseconds), or `time` for ids of any other form. Days are UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final

_UUID7: Final = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?7[0-9a-fA-F]{3}-?[89abAB][0-9a-fA-F]{3}-?[0-9a-fA-F]{12}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS: Final = 86_400_000
_HOUR: Final = timedelta(hours=1)


def day_in(record_id: str) -> date | None:
    """Return the day inside a UUIDv7; None for an id of another form, or of a year that no calendar here has.

    >>> day_in("019b76da-a800-7000-8000-000000000000")
    datetime.date(2026, 1, 1)
    """
    if not _UUID7.fullmatch(record_id):
        return None
    return _day_number(int(record_id.replace("-", "")[:12], 16) // _DAY_MS)


@lru_cache(64)
def _day_number(days: int) -> date | None:
    """Return the day so many days after 1970 began; None where no calendar here has it."""
    try:
        return (_EPOCH + timedelta(days=days)).date()
    except OverflowError:
        return None


def day_of(record_id: str, time: datetime, about: str | None = None) -> date:
    """Return the day under which the record with this id and time is kept.

    `about` is the violation that an amendment amends: it is kept, and expires, with that one.
    """
    return (day_in(about) if about else None) or day_in(record_id) or time.astimezone(UTC).date()


def start_of(day: date) -> datetime:
    """Return the moment at which a day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def hour_number(hour: datetime) -> int:
    """Return the full hours from 1970 to `hour`; `hour_of` is the way back."""
    return (hour - _EPOCH) // _HOUR


def hour_of(number: int) -> datetime:
    return _EPOCH + number * _HOUR


def days_in(record_ids: Iterable[str]) -> set[date] | None:
    """Return the days of all these ids; None when one of them does not tell its day, so that it may be anywhere."""
    found = {day_in(one) for one in record_ids}
    days = {day for day in found if day is not None}
    return days if len(days) == len(found) else None
