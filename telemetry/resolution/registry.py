"""The registry: which thread a run belongs to, and whose it is. The first of the five sources.

What a run belongs to never changes: whoever registers a run first wins, and a second, different registration is told what holds.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

LONGEST_ID: Final = 200
"""Characters of a run, thread or user id that a registry keeps."""


@dataclass(slots=True)
class Entry:
    """One run. `owner` is the user's id, where known; `source` says who told (`names.ID_SOURCES`, `created` for the application itself)."""

    run_id: str
    thread_id: str
    owner: str | None
    source: str
    expires_at: float
    """Unix seconds."""
    is_compared: bool = False
    """Whether what the id itself and the connections say was held against it, in this process."""
    is_disputed: bool = False
    """Whether another source disagreed when it was verified: from then on it is compared each time."""

    def says_the_same(self, other: Entry) -> bool:
        """Return whether two entries name the same thread and, as far as both know, the same owner."""
        return self.thread_id == other.thread_id and (self.owner is None or other.owner is None or self.owner == other.owner)


class Registry(Protocol):
    """What a registry does. `peek` looks in this process's memory only and never waits; the others may wait for a database.

    `is_async` tells how `get` and `put` are called: True, they return awaitables for the loop that serves; False, they are plain functions
    that may block and are called on a thread of the resolver's, or, where `is_local`, at once.
    """

    is_async: bool
    is_local: bool
    ttl_s: float

    def peek(self, run_id: str) -> Entry | None: ...
    def get(self, run_id: str) -> object:
        """Return the entry of a run or None, or an awaitable of it."""

    def put(self, entry: Entry) -> object:
        """Keep an entry unless the run has one; return the one that holds, or an awaitable of it."""


class MemoryRegistry:
    """The registry of one process: bounded, each entry for `ttl_s` seconds. Safe under threads and after a fork.

    Args:
        limit: entries kept; the oldest go first.
        ttl_s: how long an entry is kept, seconds.
        clock: Unix time in seconds.
    """

    is_async = False
    is_local = True

    def __init__(self, limit: int = 100_000, ttl_s: float = 86_400.0, clock: Callable[[], float] = time.time) -> None:
        self.limit = limit
        self.ttl_s = ttl_s
        self.forgotten: dict[str, int] = {"limit": 0, "expired": 0}
        """Entries that went, by reason."""
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _renew_lock(reference))

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, run_id: str) -> Entry | None:
        # One look-up in a dictionary is atomic: no lock on the path that every request takes.
        entry = self._entries.get(run_id)
        return entry if entry is not None and entry.expires_at > self._clock() else None

    get = peek

    def put(self, entry: Entry) -> Entry:
        now = self._clock()
        with self._lock:
            entries = self._entries
            known = entries.get(entry.run_id)
            if known is not None and known.expires_at > now:
                if known.owner is None and known.says_the_same(entry):
                    known.owner = entry.owner
                return known
            if known is not None:
                self._drop(entry.run_id, "expired")
            entries[entry.run_id] = entry
            # They stand in the order of their making, which is that of their ends: the expired ones are in front.
            while entries:
                first = next(iter(entries.values()))
                if first.expires_at <= now:
                    self._drop(first.run_id, "expired")
                elif len(entries) > self.limit:
                    self._drop(first.run_id, "limit")
                else:
                    break
            return entry

    def forget(self, run_id: str) -> None:
        with self._lock:
            self._entries.pop(run_id, None)

    def _drop(self, run_id: str, reason: str) -> None:
        self._entries.pop(run_id, None)
        self.forgotten[reason] += 1


def _renew_lock(reference: weakref.ref[MemoryRegistry]) -> None:
    made = reference()
    if made is not None:
        made._lock = threading.Lock()
