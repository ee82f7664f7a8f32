"""Subjects, told in domain words: forget one, a few days of evidence at a time, and keep a note that it was done."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.problems import Invalid
from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.storage.models import EVIDENCE, Base, RunRow, UnknownRecordRow, ViolationRow
from isolation_monitor.collector.subjects.domain import PRINCIPAL, Forgetting, columns_without, ids_of, subject_of, violation_without
from isolation_monitor.collector.subjects.repository import PLACES, Row, SubjectRepository

_SLICE_S: Final = 3.0
"""One request works for about so long; the next one goes on after it."""
_READ_S: Final = 60.0
"""A day is read through in one go."""
_CHUNK: Final = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a forgetting has come; `cursor` None: through all days."""

    forgetting: Forgetting
    cursor: str | None


class SubjectService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def forget(self, principal: str, actor: str, cursor: str | None = None) -> Progress:
        """Forget a principal in the days after `cursor`, for a few seconds. Doing it again finds nothing more.

        Raises:
            Invalid: no hash of a principal, or a cursor of another forgetting.
            StoreUnavailable: what was done stays done; the same call goes on.
        """
        if not PRINCIPAL.fullmatch(principal):
            raise Invalid("this is no hash of a principal: 16 hexadecimal digits, as evidence names users; never the user's own id")
        forgetting, day = await self._begun(principal, actor, cursor)
        started = time.monotonic()
        while True:
            async with self._database.reading() as connection:
                day = await SubjectRepository(connection).day_after(day)
            if day is None:
                break
            removed, changed = await self._forget_day(principal, day)
            async with self._database.writing() as connection:
                await SubjectRepository(connection).advance(forgetting.id, removed, changed, None)
            if time.monotonic() - started > _SLICE_S:
                return await self._progress(forgetting.id, f"{forgetting.id}.{day.isoformat()}")
        async with self._database.writing() as connection:
            repository = SubjectRepository(connection)
            await repository.remove_statements(principal)
            await repository.forget_sums()
            await repository.advance(forgetting.id, 0, 0, self._clock())
        return await self._progress(forgetting.id, None)

    async def newest(self, limit: int) -> list[Forgetting]:
        async with self._database.reading() as connection:
            return await SubjectRepository(connection).newest(limit)

    async def _begun(self, principal: str, actor: str, cursor: str | None) -> tuple[Forgetting, date | None]:
        if cursor is None:
            # Sorts by time, as its list does.
            forgetting_id = f"{int(self._clock().timestamp() * 1000):012x}{secrets.token_hex(6)}"
            forgetting = Forgetting(forgetting_id, subject_of(principal), actor, self._clock(), None, 0, 0)
            async with self._database.writing() as connection:
                await SubjectRepository(connection).begin(forgetting)
            return forgetting, None
        forgetting_id, _, day = cursor.partition(".")
        async with self._database.reading() as connection:
            found = await SubjectRepository(connection).get(forgetting_id)
        try:
            after = date.fromisoformat(day)
        except ValueError:
            found = None
        if found is None or found.subject != subject_of(principal):
            raise Invalid("cursor is not one of this forgetting: pass next of the answer before, unchanged, or none to begin anew")
        return found, after

    async def _progress(self, forgetting_id: str, cursor: str | None) -> Progress:
        async with self._database.reading() as connection:
            found = await SubjectRepository(connection).get(forgetting_id)
        if found is None:
            raise RuntimeError("a forgetting that was just written is not there")
        return Progress(found, cursor)

    async def _forget_day(self, principal: str, day: date) -> tuple[int, int]:
        removed = changed = 0
        for table in EVIDENCE:
            async with self._database.reading(_READ_S) as connection:
                rows = await SubjectRepository(connection).about(table, day, principal)
            for start in range(0, len(rows), _CHUNK):
                async with self._database.writing() as connection:
                    gone, different = await _forget_rows(SubjectRepository(connection), table, rows[start : start + _CHUNK], principal)
                removed, changed = removed + gone, changed + different
        return removed, changed


async def _forget_rows(repository: SubjectRepository, table: type[Base], rows: Sequence[Row], principal: str) -> tuple[int, int]:
    removed = changed = 0
    for row in rows:
        if table is ViolationRow:
            await repository.forget_mentions(row["time"], ids_of(principal, row))
        values = _without(table, row, principal)
        if values is None:
            removed += await repository.remove(table, row)
        elif values:
            changed += await repository.change(table, row, values)
    return removed, changed


def _without(table: type[Base], row: Row, principal: str) -> dict[str, Any] | None:  # Any: column values
    if table is ViolationRow:
        return violation_without(principal, row)
    if table is UnknownRecordRow or (table is RunRow and row["principal"] == principal):
        # Nobody here knows what an unknown record says of whom.
        return None
    return columns_without(principal, row, PLACES[table])
