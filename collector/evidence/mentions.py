"""Violations by whom they mention: a user, a run or a request on either side, found by an index on both databases.

PostgreSQL has a GIN index over the ids of both sides. SQLite's is `violation_mentions`, written an hour at a time when the hour is
over (`rollups.py`); hours that are not in it yet, as the present one, are walked through.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.domain import ViolationQuery
from isolation_monitor.collector.storage.days import hour_number, hour_of
from isolation_monitor.collector.storage.models import ViolationRow
from isolation_monitor.collector.storage.rollup_models import HOUR, MentionRow, RollupRow

SIDES: Final = ("victim", "offender")
MENTIONED: Final = ("principal", "run_id", "request_id")
_HOUR: Final = timedelta(hours=1)
_STEPS: Final = (6, 48, 240)
"""Hours that are looked up at once, and ever more of them while the page is not full."""
_ALL: Final = ", ".join(f"left(violations.{side} ->> '{name}', 200)" for name in MENTIONED for side in SIDES)
_BY_INDEX: Final = f"array_remove(ARRAY[{_ALL}], NULL) @> CAST(:mentioned AS text[])"


def mentioned(query: ViolationQuery) -> list[str]:
    """Return the ids that a violation must mention, those that few have first."""
    return [value for value in (query.request_id, query.run_id, query.principal) if value is not None]


def mentions(query: ViolationQuery) -> list[ColumnElement[bool]]:
    """Return the conditions on the sides themselves."""
    row = ViolationRow
    found = []
    for name in MENTIONED:
        if (value := getattr(query, name)) is not None:
            found.append(or_(*(side[name].as_string() == value for side in (row.victim, row.offender))))
    return found


def by_index(query: ViolationQuery) -> ColumnElement[bool]:
    """Return the condition that PostgreSQL's index answers; the others make it exact."""
    return text(_BY_INDEX).bindparams(mentioned=mentioned(query))  # type: ignore[return-value]  # stands where a condition does


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time of which all hours are indexed, or none; None is open."""

    since: datetime | None
    until: datetime | None
    is_indexed: bool


async def stretches(connection: AsyncConnection, query: ViolationQuery) -> list[Stretch]:
    """Cut the range of a query by what SQLite's index has, in the order of the pages."""
    row = RollupRow
    statement = select(row.start).where(row.kind == HOUR, row.is_done.is_(True)).order_by(row.start)
    if query.since is not None:
        statement = statement.where(row.start >= query.since)
    if query.until is not None:
        statement = statement.where(row.start <= query.until - _HOUR)
    found = list(_cut(query.since, query.until, (await connection.execute(statement)).scalars()))
    return found if query.is_oldest_first else found[::-1]


def _cut(since: datetime | None, until: datetime | None, hours: Iterable[datetime]) -> Iterator[Stretch]:
    at, first = since, None
    last: datetime | None = None
    for hour in hours:
        if last is not None and hour == last + _HOUR:
            last = hour
            continue
        if first is not None and last is not None:
            yield Stretch(first, last + _HOUR, True)
            at = last + _HOUR
        if at is None or at < hour:
            yield Stretch(at, hour, False)
        first = last = hour
    if first is not None and last is not None:
        yield Stretch(first, last + _HOUR, True)
        at = last + _HOUR
    if at is None or until is None or at < until:
        yield Stretch(at, until, False)


def steps(stretch: Stretch, *, is_oldest_first: bool) -> Iterator[list[int]]:
    """Give the hours of an indexed stretch in portions, in the order of the pages."""
    if stretch.since is None or stretch.until is None:
        raise ValueError("an indexed stretch has two ends")
    hours = list(range(hour_number(stretch.since), hour_number(stretch.until)))
    if not is_oldest_first:
        hours.reverse()
    number = 0
    while hours:
        size = _STEPS[min(number, len(_STEPS) - 1)]
        yield hours[:size]
        hours, number = hours[size:], number + 1


async def times_of(connection: AsyncConnection, query: ViolationQuery, hours: list[int]) -> list[datetime]:
    """Return the times of the violations of these hours that mention all that is asked for, in the order of the pages."""
    row = MentionRow
    found: set[tuple[int, int]] | None = None
    for value in mentioned(query):
        # One seek for each hour: the hours as one parameter, so that the statement is prepared once.
        there = text("violation_mentions.hour IN (SELECT value FROM json_each(:hours))").bindparams(hours=json.dumps(hours))
        here: Any = select(row.hour, row.offset_us).where(there, row.value == value)  # Any: of two columns
        times = {(hour, offset) for hour, offset in await connection.execute(here)}
        found = times if found is None else found & times
        if not found:
            return []
    after = query.after[0].astimezone(UTC) if query.after else None
    moments = [hour_of(hour) + timedelta(microseconds=offset) for hour, offset in found or ()]
    if after is not None:
        moments = [one for one in moments if (one >= after if query.is_oldest_first else one <= after)]
    return sorted(moments, reverse=not query.is_oldest_first)
