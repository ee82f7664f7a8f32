"""The counts by the hour are what the records say, whatever happened to these: late, twice, escalated, retracted, gone."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.storage.models import ViolationCountRow, ViolationRow
from tests.collector.conftest import Api

_ALIKE = ("day", "service", "fingerprint", "kind", "grade", "detector", "arm", "synthetic")


def database_of(api: Api) -> Database:
    database: Database = api.app.state.runtime.database
    return database


async def counted(api: Api) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return what the database keeps as counts."""
    async with database_of(api).reading() as connection:
        rows = (await connection.execute(select(ViolationCountRow.__table__))).all()
    return {(row.hour, row.retracted, row.suppressed, *(getattr(row, name) for name in _ALIKE)): tuple(row[-4:]) for row in rows}


async def recounted(api: Api) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return the same, counted here, record by record."""
    async with database_of(api).reading() as connection:
        rows = (await connection.execute(select(ViolationRow.__table__))).all()
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        hour = row.time.replace(minute=0, second=0, microsecond=0)
        key = (hour, row.retracted_at is not None, row.detail.get("suppressed") is not None, *(getattr(row, name) for name in _ALIKE))
        found.setdefault(key, []).append(row)
    return {
        key: (len(of), sum(row._mapping["count"] for row in of), min(row.time for row in of), max(row.time for row in of))
        for key, of in found.items()
    }


async def test_counts_follow_every_order_in_which_records_come(api: Api) -> None:
    """A hundred batches of old, new, repeated, escalated and retracted records, drawn with a seed; the counts never differ."""
    draw, sent = random.Random(7), list[str]()
    start = api.clock()
    for n in range(100):
        records: list[dict[str, Any]] = []
        for _ in range(draw.randint(1, 6)):
            what = draw.random()
            if what < 0.6 or not sent:
                record_id = f"v-{n}-{len(sent)}" if draw.random() < 0.9 or not sent else draw.choice(sent)
                # Some of them arrive after what is said of them.
                later = draw.random() < 0.1
                sent.append(record_id)
                if later:
                    records.append(api.escalation(record_id))
                    continue
                when = rfc3339(start - timedelta(minutes=draw.choice((0, 1, 30, 59, 60, 61, 1440, 40_000)), seconds=draw.random() * 50))
                changes = {"grade": draw.choice(("hygiene", "reachable")), "fingerprint": draw.choice("ab"), "count": draw.randint(1, 9)}
                accepted = {"suppressed": draw.choice((None, {"reason": "known"}))} if draw.random() < 0.4 else {"note": "suppressed"}
                changes["detail"] = accepted
                records.append(api.violation(id=record_id, time=when, **changes))
            elif what < 0.8:
                records.append(api.escalation(draw.choice(sent), grade=draw.choice(("reachable", "crossed"))))
            else:
                records.append(api.retraction(draw.choice(sent)))
        assert (answer := await api.send(*records)).status_code == 200, answer.text

    kept = await counted(api)

    assert kept == await recounted(api)
    assert len({key[0] for key in kept}) > 3
    assert Counter(key[1] for key in kept)[True] > 3
    assert Counter(key[2] for key in kept)[True] > 3


async def test_what_is_deleted_is_counted_no_more(api: Api) -> None:
    """First and last of what stays are looked up again when one of them is what left."""
    for second in range(4):
        await api.send(api.violation(id=f"v-{second}"))
        api.clock.advance(1)

    async with database_of(api).writing() as connection:
        await connection.execute(delete(ViolationRow).where(ViolationRow.id.in_(("v-0", "v-3"))))
    after_two = await counted(api)
    same = after_two == await recounted(api)
    async with database_of(api).writing() as connection:
        await connection.execute(delete(ViolationRow))

    assert same
    assert [numbers[0] for numbers in after_two.values()] == [2]
    assert await counted(api) == {}
