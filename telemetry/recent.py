"""A table of what happened recently: bounded in number and in time, so that finished requests are let go even when all is quiet."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from isolation_monitor.telemetry.housekeeper import Housekeeper

K = TypeVar("K")
V = TypeVar("V")


def forget_oldest(table: MutableMapping[Any, Any], limit: int, share: float) -> None:
    """Drop the oldest entries of a table that has more than `limit`, `share` of the limit at once.

    Many at once: finding the first entry of a dict takes longer the more were taken from its front.
    """
    if len(table) > limit:
        for key in list(islice(table, int(limit * share) or 1)):
            table.pop(key, None)


class Recent(Generic[K, V]):
    """Entries are forgotten `window_s` seconds after they were put, at the latest twice that; the oldest first when there are too many."""

    def __init__(self, housekeeper: Housekeeper, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._housekeeper = housekeeper
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._is_due = False

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = (self._clock(), value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._drop_oldest()
        if not self._is_due:
            self._is_due = True
            self._housekeeper.after(self._window_s, self._forget)

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and self._is_recent(entry[0]) else None

    def pop(self, key: K) -> V | None:
        entry = self._entries.pop(key, None)
        return entry[1] if entry is not None and self._is_recent(entry[0]) else None

    def values(self) -> list[V]:
        return [value for at, value in list(self._entries.values()) if self._is_recent(at)]

    def _is_recent(self, at: float) -> bool:
        return self._clock() - at <= self._window_s

    def _drop_oldest(self) -> None:
        try:
            self._entries.popitem(last=False)
        except KeyError:
            # Another thread was first.
            pass

    def _forget(self) -> None:
        for key, (at, _) in list(self._entries.items()):
            if not self._is_recent(at):
                self._entries.pop(key, None)
        # In this order: one that comes in between finds the flag down and sets the next date itself.
        self._is_due = False
        if self._entries:
            self._is_due = True
            self._housekeeper.after(self._window_s, self._forget)
