"""Many new violations at once, for less than inserting them costs (docs/performance.md).

The triggers that count violations by the hour, and take away the marks of sums that no longer hold, do it for each row on SQLite; on
PostgreSQL they stand at the whole table, so that nothing can be copied past them. Here both is done once for all rows, in the same
transaction and with the same outcome. Whoever writes in any other way leaves it to the triggers (docs/decisions/0013).

PostgreSQL: COPY, straight into the partition of the day. It takes all or nothing: a record that is there already, or that the
database refuses, ends it; then everything is inserted the other way, which knows what to do with each.

SQLite: while a mark of the kind `apart` is there, the triggers on inserts rest. It never outlives the transaction that wrote it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from operator import itemgetter
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.evidence.counts import full_hour
from isolation_monitor.collector.evidence.rows import VIOLATION_DAY, VIOLATIONS, Values
from isolation_monitor.collector.storage.rollup_models import APART, DAY, HOUR

logger = logging.getLogger("isolation_monitor.collector")

ROWS: Final = 100
"""From so many rows on: the statements around them cost about as much as inserting twenty to fifty."""

_KEY: Final = ("day", "service", "fingerprint", "kind", "grade", "detector", "arm", "synthetic", "suppressed")
_key_of: Final = itemgetter(*(VIOLATIONS.columns.index(name) for name in _KEY))
_TIME, _COUNT = (VIOLATIONS.columns.index(name) for name in ("time", "count"))
_HOUR: Final = len(_KEY)
_COLUMNS: Final = ", ".join((*_KEY, "hour", "records", "violations", "first", "last"))
_CONFLICT: Final = "day, hour, service, fingerprint, kind, grade, detector, arm, synthetic, retracted, suppressed"
_SUMS: Final = (
    f"ON CONFLICT ({_CONFLICT}) DO UPDATE SET records = c.records + excluded.records, violations = c.violations + excluded.violations"
)


async def stored_in_bulk(connection: AsyncConnection, rows: Sequence[Values]) -> set[str] | None:
    """Store violations and return the ids that were new; None when nothing was done: they are to be inserted in the usual way.

    `rows` are in the order of their ids, none of them twice.
    """
    if len(rows) < ROWS:
        return None
    store = _copied if connection.dialect.name == "postgresql" else _counted_apart
    return await store(connection, rows)


def _added(rows: Sequence[Values], hour_of: Callable[[Any], object]) -> list[Values]:  # Any: a time as the driver takes it
    """Return what rows add to the counts: by hour, and by all that tells counts apart."""
    found: dict[Values, list[Any]] = {}  # Any: numbers and times
    for row in rows:
        time = row[_TIME]
        key = (*_key_of(row), hour_of(time))
        if (sums := found.get(key)) is None:
            found[key] = [1, row[_COUNT], time, time]
            continue
        sums[0] += 1
        sums[1] += row[_COUNT]
        if time < sums[2]:
            sums[2] = time
        elif time > sums[3]:
            sums[3] = time
    return [(*key, *sums) for key, sums in found.items()]


# PostgreSQL

_TABLE: Final = "violations"
# Held as an INSERT into the table holds it: whoever detaches a partition, or waits for all writers, waits for this transaction.
# Planned anew each time: what was planned while the day's partition was empty reads all of it, and is kept until that is analyzed.
_BEGIN: Final = f"SET LOCAL plan_cache_mode = force_custom_plan; SAVEPOINT copying; LOCK TABLE ONLY {_TABLE} IN ROW EXCLUSIVE MODE"
_BACK: Final = "ROLLBACK TO SAVEPOINT copying"
_END: Final = "RELEASE SAVEPOINT copying"
# A batch that is sent again is seen by some of its ids: what a COPY that fails has written is left to the next vacuum.
_IS_OPEN: Final = (
    f"SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = '{_TABLE}'::regclass AND inhrelid = to_regclass($1)) "
    f"AND NOT EXISTS (SELECT FROM {_TABLE} WHERE day = $2 AND id = ANY($3::text[]))"
)
_SAMPLE: Final = 50
"""Of so many rows one is looked for."""
_TYPES: Final = ("date", *["text"] * 6, "boolean", "boolean", "timestamptz", "bigint", "bigint", "timestamptz", "timestamptz")
_GIVEN: Final = ", ".join(f"${place}::{name}[]" for place, name in enumerate(_TYPES, 1))
# In the order in which the triggers take these rows: two writers must not hold what the other waits for.
_ADD_POSTGRESQL: Final = (
    f"INSERT INTO violation_counts AS c ({_COLUMNS}, retracted) SELECT {_COLUMNS}, false FROM unnest({_GIVEN}) AS added({_COLUMNS}) "
    f"ORDER BY {_CONFLICT.replace('retracted, ', '')} "
    f"{_SUMS}, first = least(c.first, excluded.first), last = greatest(c.last, excluded.last)"
)
_UNROLL_POSTGRESQL: Final = (
    "DELETE FROM violation_rollups WHERE kind = 'day' AND start IN (SELECT start FROM violation_rollups WHERE kind = 'day' AND start IN "
    "(SELECT DISTINCT date_trunc('day', hour, 'UTC') FROM unnest($1::timestamptz[]) AS changed(hour)) ORDER BY start FOR UPDATE)"
)


async def _copied(connection: AsyncConnection, rows: Sequence[Values]) -> set[str] | None:
    if len(days := {row[VIOLATION_DAY] for row in rows}) > 1:
        return None
    (day,) = days
    driver: Any = (await connection.get_raw_connection()).driver_connection  # Any: asyncpg's, which is found and never required
    try:
        await driver.execute(_BEGIN)
        is_copied = await _copied_to_partition(driver, day, rows)
        await driver.execute(_END)
    except Exception as error:
        logger.debug("violations are inserted, not copied: %s", type(error).__name__)
        # What it was is said by the INSERT, in words that are known: also that the connection is gone.
        with suppress(Exception):
            await driver.execute(_BACK)
        return None
    if not is_copied:
        return None
    added = _added(rows, full_hour)
    await connection.exec_driver_sql(_ADD_POSTGRESQL, tuple(list(column) for column in zip(*added, strict=True)))
    await connection.exec_driver_sql(_UNROLL_POSTGRESQL, ([one[_HOUR] for one in added],))
    return {row[0] for row in rows}


async def _copied_to_partition(driver: Any, day: date, rows: Sequence[Values]) -> bool:  # Any: as above
    # Named as retention names it. A table that was detached has the name for a while, and what is copied there would be dropped with it.
    partition = f"{_TABLE}_d{day:%Y%m%d}"
    if not await driver.fetchval(_IS_OPEN, partition, day, [row[0] for row in rows[::_SAMPLE]]):
        return False
    await driver.copy_records_to_table(partition, records=rows, columns=VIOLATIONS.columns)
    return True


# SQLite

_NO_TIME: Final = "1970-01-01 00:00:00.000000"
# Only where the triggers know of the mark, and with where the new rows will begin.
_REST: Final = (
    f"INSERT INTO violation_rollups (kind, start, token, is_done) SELECT '{APART}', '{_NO_TIME}', "
    "(SELECT coalesce(max(rowid), 0) FROM violations), 0 WHERE (SELECT count(*) FROM sqlite_master WHERE type = 'trigger' "
    f"AND name IN ('violations_inserted', 'violations_inserted_unroll') AND sql LIKE '%''{APART}''%') = 2 RETURNING token"
)
_ADD_SQLITE: Final = (
    f"INSERT INTO violation_counts AS c ({_COLUMNS}, retracted) VALUES ({', '.join('?' * len(_TYPES))}, 0) "
    f"{_SUMS}, first = min(c.first, excluded.first), last = max(c.last, excluded.last)"
)
_UNROLL_SQLITE: Final = (
    "DELETE FROM violation_rollups WHERE (kind, start) IN "
    "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
)


async def _counted_apart(connection: AsyncConnection, rows: Sequence[Values]) -> set[str] | None:
    before = (await connection.exec_driver_sql(_REST)).scalar()
    if before is None:
        return None
    number = 0
    for statement, values in VIOLATIONS.sqlite_inserts(rows, is_told=False):
        number += (await connection.exec_driver_sql(statement, values, {"preserve_rowcount": True})).rowcount
    new = {row[0] for row in rows}
    if number < len(rows):
        new = set((await connection.exec_driver_sql("SELECT id FROM violations WHERE rowid > ?", (int(before),))).scalars())
    changed = {(APART, _NO_TIME)}
    # Times are text with six digits after the second: cut, they are an hour or a day.
    if added := _added([row for row in rows if row[0] in new], lambda time: f"{time[:13]}:00:00.000000"):
        await connection.exec_driver_sql(_ADD_SQLITE, added)
        changed |= {(HOUR, one[_HOUR]) for one in added} | {(DAY, f"{one[_HOUR][:10]} 00:00:00.000000") for one in added}
    await connection.exec_driver_sql(_UNROLL_SQLITE, (json.dumps(sorted(changed)),))
    return new
