"""A bounded table of what is known about objects of the host, found by identity: no hash, no comparison of theirs runs."""

from __future__ import annotations

import weakref
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

TABLE_LIMIT: Final = 20_000


class ByIdentity(Generic[T]):
    """Maps live objects to values. An entry goes when its object dies: the identity may then be another object's."""

    __slots__ = ("_entries", "_limit")

    def __init__(self, limit: int = TABLE_LIMIT) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], T]] = {}
        self._limit = limit

    def get(self, thing: object) -> T | None:
        entry = self._entries.get(id(thing))
        return entry[1] if entry is not None and entry[0]() is thing else None

    def put(self, thing: object, value: T) -> bool:
        """Remember `value` for `thing`; False where that cannot be: the object takes no weak reference, or the table is full."""
        key, entries = id(thing), self._entries
        if len(entries) >= self._limit and key not in entries:
            return False

        def forget(reference: weakref.ref[Any]) -> None:
            entry = entries.get(key)
            if entry is not None and entry[0] is reference:
                # Another thread may drop it at this moment.
                entries.pop(key, None)

        try:
            entries[key] = (weakref.ref(thing, forget), value)
        except TypeError:
            return False
        return True

    def drop(self, thing: object) -> T | None:
        """Forget `thing`; return what was known."""
        known = self.get(thing)
        if known is not None:
            self._entries.pop(id(thing), None)
        return known

    def __len__(self) -> int:
        return len(self._entries)
