"""Batches: records that are kept, sent and answered for together, all of one gravity; and the store of them in memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from isolation_monitor.telemetry.records.gravity import CROSSED, gravity
from isolation_monitor.telemetry.records.redaction import redacted

RECORDS_LIMIT: Final = 200
TEXT_LIMIT: Final = 524_288
"""Bytes of JSON in one batch: well below what a collector, or a proxy in front of it, takes in one body."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`body` is the JSON array of the records, deflated; `instance` is the process that made them; `number` is its place in its store."""

    gravity: int
    records: int
    body: bytes
    instance: str
    number: int = 0

    def text(self) -> bytes:
        """Return the JSON array.

        Raises:
            zlib.error: the body is not whole.
        """
        return zlib.decompress(self.body)

    def split(self) -> list[Batch]:
        """Return two batches with half of the records each; itself when it has only one."""
        records = json.loads(self.text())
        middle = len(records) // 2
        if not middle:
            return [self]
        return [_packed(self.gravity, [json.dumps(one) for one in half], self.instance) for half in (records[:middle], records[middle:])]


def pack(records: Iterable[dict[str, Any]], instance: str, on_bad: Callable[[Exception], None]) -> list[Batch]:  # Any: JSON
    """Return records as batches without secrets, the gravest first; `on_bad` hears of each that JSON cannot carry at all."""
    texts: dict[int, list[str]] = {}
    for record in records:
        try:
            texts.setdefault(gravity(record), []).append(redacted(json.dumps(record, default=str, allow_nan=False)))
        except Exception as error:
            # Values of the host may be in it, whose `__str__` may do anything. NaN and infinity are no JSON: a collector refuses the
            # whole body for them.
            on_bad(error)
    return [_packed(grave, part, instance) for grave in sorted(texts, reverse=True) for part in _portions(texts[grave])]


def _portions(texts: list[str]) -> Iterable[list[str]]:
    portion: list[str] = []
    size = 0
    for text in texts:
        if portion and (len(portion) >= RECORDS_LIMIT or size + len(text) > TEXT_LIMIT):
            yield portion
            portion, size = [], 0
        portion.append(text)
        size += len(text)
    if portion:
        yield portion


def _packed(grave: int, texts: list[str], instance: str) -> Batch:
    return Batch(grave, len(texts), zlib.compress(("[" + ",".join(texts) + "]").encode(), 1), instance)


class MemoryStore:
    """Batches in memory, for where there is no spool. Not safe for threads: its owner has a lock."""

    def __init__(self) -> None:
        self._kept: list[dict[int, Batch]] = [{} for _ in range(CROSSED + 1)]
        self._number = 0
        self.records = 0

    def add(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._number += 1
            self._kept[batch.gravity][self._number] = replace(batch, number=self._number)
            self.records += batch.records

    def first(self, without: Collection[int]) -> Batch | None:
        """Return the oldest of the gravest, except those whose numbers are in `without`."""
        for kept in reversed(self._kept):
            for number, batch in kept.items():
                if number not in without:
                    return batch
        return None

    def remove(self, number: int) -> None:
        for kept in self._kept:
            batch = kept.pop(number, None)
            if batch is not None:
                self.records -= batch.records

    def replace(self, number: int, batches: Iterable[Batch]) -> None:
        """Put others in the place of one, unless that is gone: it may have moved to the disk meanwhile."""
        if any(number in kept for kept in self._kept):
            self.remove(number)
            self.add(batches)

    def evict(self, below: int) -> int:
        """Drop the oldest of the least grave, if it is less grave than `below`; return how many records went."""
        for kept in self._kept[:below]:
            for number, batch in kept.items():
                self.remove(number)
                return batch.records
        return 0

    def take_all(self) -> list[Batch]:
        """Return everything, the oldest of the gravest first, and keep nothing."""
        everything = [batch for kept in reversed(self._kept) for batch in kept.values()]
        self._kept = [{} for _ in self._kept]
        self.records = 0
        return everything
