"""The spool: what waits for the collector, on disk where there is one to be used, else in memory; used by two threads.

Promise: a batch that `add` has kept on disk is given out by `next` until `done` forgets it, by this process or by the next
one of the service. It goes only for room, to graver records (docs/records.md). Nothing here raises.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from isolation_monitor.telemetry.records import dead_letters
from isolation_monitor.telemetry.records.batches import Batch, MemoryStore
from isolation_monitor.telemetry.records.gravity import rooms
from isolation_monitor.telemetry.records.quiet_log import QuietLog
from isolation_monitor.telemetry.records.spool_file import ROW_BYTES, SpoolFile, is_damage
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder

DISK_AGAIN_S: Final = 10.0
"""After a disk has refused, it is tried again so much later."""
ADOPT_EVERY_S: Final = 30.0
EXPIRE_EVERY_S: Final = 3_600.0
"""Also how long a process runs before it removes anything for its age: a clock that is wrong at start is put right by then."""
_SIZES_FOR_S: Final = 2.0
_FORK_WAIT_S: Final = 1.0


class Store(Protocol):
    """What holds batches: a file or memory."""

    def first(self, without: Collection[int]) -> Batch | None: ...
    def remove(self, number: int) -> None: ...
    def replace(self, number: int, batches: Iterable[Batch]) -> None: ...


class Spool:
    """All batches of this process that wait, and one file that another process of the service left."""

    def __init__(
        self, folder: SpoolFolder | None, cap_bytes: int, memory_limit: int, count: Callable[[str, int], None], log: QuietLog
    ) -> None:
        """`count(what, n)` counts records: `spooled`, `unspooled`, and as lost `spool_full`, `queue_full`, `corrupt`, `expired`."""
        self._folder = folder if cap_bytes else None
        self._cap_bytes = cap_bytes
        self._rooms = rooms(memory_limit)
        self._rooms_bytes = rooms(cap_bytes)
        self._count = count
        self._log = log
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._memory = MemoryStore()
        self._own: SpoolFile | None = None
        self._orphan: SpoolFile | None = None
        self._disk_at = float("-inf")
        self._adopt_at = float("-inf")
        self._expire_at = time.monotonic() + EXPIRE_EVERY_S
        self._others: tuple[float, set[Path], int] = (float("-inf"), set(), 0)
        """When the rest of the folder was measured, without which files, and its bytes."""
        self._orphans_turn = False
        self._used_bytes = 0
        self._is_closed = False
        self._held = threading.local()
        """`lock`: whether the thread that forks has the lock."""
        self.problem = ""
        """Why there is nothing on disk, where something should be."""

    @property
    def records(self) -> int:
        """How many records wait, those of the adopted file as well."""
        own, orphan = self._own, self._orphan
        return self._memory.records + (own.records if own else 0) + (orphan.records if orphan else 0)

    @property
    def memory_records(self) -> int:
        """How many of them a crash would lose."""
        return self._memory.records

    @property
    def used_bytes(self) -> int:
        """Bytes in use in this process's file; as of the last look while the disk keeps somebody waiting."""
        if self._lock.acquire(blocking=False):
            try:
                self._used_bytes = 0 if self._own is None else self._own.used_bytes()
            except (sqlite3.Error, OSError):
                self._used_bytes = 0
            finally:
                self._lock.release()
        return self._used_bytes

    def add(self, batches: list[Batch]) -> bool:
        """Keep batches; whether all of them are on disk now, synced."""
        with self._lock:
            if self._is_closed:
                self._count("shutdown", sum(batch.records for batch in batches))
                return False
            file = self._file()
            if file is not None:
                # What had to wait in memory while the disk was away goes first: it is older.
                waiting = [*self._memory.take_all(), *batches]
                try:
                    kept = self._with_room(file, waiting)
                    file.add(kept)
                except (sqlite3.Error, OSError) as error:
                    self._disk_failed(error)
                    self._remember(waiting, batches)
                    return False
                spooled, full = sum(batch.records for batch in kept), len(kept) < len(waiting)
                self._count("spooled", spooled)
                if full:
                    self._count("spool_full", sum(batch.records for batch in waiting) - spooled)
                    self._log.warn("cap", "the spool is full (%d bytes): the least grave records are dropped", self._cap_bytes)
                return not full
            self._remember(batches, batches)
            return False

    def next(self, without: set[tuple[Store, int]]) -> tuple[Store, Batch] | None:
        """Return what to send next and where it lies: by turns of this process and of the file that another left, the gravest first.

        `without`: those that are not wanted now.
        """
        with self._lock:
            if self._is_closed:
                return None
            self._look_for_orphans()
            stores: list[Store] = [self._memory]
            if self._own is not None:
                stores.append(self._own)
            if self._orphan is not None:
                stores.insert(0 if self._orphans_turn else len(stores), self._orphan)
                self._orphans_turn = not self._orphans_turn
            for store in stores:
                batch = self._first(store, {number for owner, number in without if owner is store})
                if batch is not None:
                    return store, batch
            return None

    def done(self, store: Store, batch: Batch) -> None:
        """Forget a batch: it was acknowledged, or refused for good."""
        self._change(store, lambda: store.remove(batch.number))

    def split(self, store: Store, batch: Batch) -> bool:
        """Put two halves in the place of a batch that is too large; whether the disk let us."""
        return self._change(store, lambda: store.replace(batch.number, batch.split()))

    def bury(self, status: int, reason: str, records: list[Any]) -> None:
        """Keep records that the collector will never take where people find them. Any: JSON."""
        if self._folder is None:
            return
        try:
            self._folder.make()
            dead_letters.write(self._folder.path, status, reason, records)
        except OSError as error:
            self._log.warn("dead letters", "refused records could not be kept in %s: %s", self._folder.path, error)

    def close(self, timeout_s: float) -> int:
        """Close the files, for the next process to adopt what is in them; return how many records were in memory only.

        A disk that hangs is left alone after `timeout_s`: the end of the process closes everything as well.
        """
        self._is_closed = True
        if not self._lock.acquire(timeout=timeout_s):
            return self._memory.records
        try:
            lost, self._memory = self._memory.records, MemoryStore()
            for file in (self._own, self._orphan):
                if file is not None:
                    self._end(file)
            self._own = self._orphan = None
            return lost
        finally:
            self._lock.release()

    # --- forks: no connection to a database crosses one -----------------------------------------------------------------

    def before_fork(self) -> None:
        # A thread may be waiting for the disk; the fork must not wait as long as a broken one takes.
        self._held.lock = self._lock.acquire(timeout=_FORK_WAIT_S)
        if self._held.lock:
            for file in (self._own, self._orphan):
                if file is not None:
                    file.release()

    def after_fork_in_parent(self) -> None:
        if self._held.__dict__.pop("lock", False):
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew, with a file of this process's own: what there was is the parent's."""
        own, orphan = self._own, self._orphan
        self._reset()
        for file in (own, orphan):
            if file is not None:
                file.abandon()

    # --- under the lock -------------------------------------------------------------------------------------------------

    def _file(self) -> SpoolFile | None:
        """Return this process's file, made now where it is missing; None while the disk cannot be used."""
        if self._folder is None or time.monotonic() < self._disk_at:
            return None
        if self._own is not None and self._orphan is None and not self._own.path.exists():
            # A cleaner of temporary files took its name away: it is sent as long as it is open, and nothing is added.
            self._own, self._orphan = None, self._own
        if self._own is None:
            try:
                self._folder.make()
                self._own = SpoolFile.create(self._folder.path)
                self.problem = ""
            except (sqlite3.Error, OSError) as error:
                self._disk_failed(error)
                return None
        return self._own

    def _disk_failed(self, error: Exception) -> None:
        self._disk_at = time.monotonic() + DISK_AGAIN_S
        self.problem = str(error) or type(error).__name__
        self._log.warn("spool", "records stay in memory, where a crash loses them: the spool cannot be written (%s)", self.problem)
        if is_damage(error) and self._own is not None:
            own, self._own = self._own, None
            self._damaged(own)
            self._disk_at = time.monotonic()

    def _remember(self, batches: list[Batch], new: list[Batch]) -> None:
        """Keep batches in memory, as far as there is room; those in `new` were not counted yet."""
        for batch in sorted(batches, key=lambda one: -one.gravity):
            room = self._rooms[batch.gravity]
            while self._memory.records + batch.records > room:
                evicted = self._memory.evict(batch.gravity)
                if not evicted:
                    break
                self._count("queue_full", evicted)
            if self._memory.records + batch.records > room:
                self._count("queue_full", batch.records)
                continue
            self._memory.add([batch])
            if self._folder is not None and any(batch is one for one in new):
                self._count("unspooled", batch.records)

    def _with_room(self, file: SpoolFile, batches: list[Batch]) -> list[Batch]:
        """Return those of the batches for which there is room: less grave ones make place, and leave some to graver ones."""
        kept: list[Batch] = []
        used, added = self._bytes_with_others(file), 0
        for batch in sorted(batches, key=lambda one: -one.gravity):
            need, room = len(batch.body) + ROW_BYTES, self._rooms_bytes[batch.gravity]
            while used + added + need > room and self._evict(file, batch.gravity, used + added + need - room):
                used = self._bytes_with_others(file)
            if used + added + need <= room:
                added += need
                kept.append(batch)
        return kept

    def _evict(self, file: SpoolFile, below: int, wanted_bytes: int) -> bool:
        """Drop some of the least grave of what we have, this process's or adopted; nothing where all of it is not enough."""
        if self._of_orphan(lambda orphan: orphan.bytes_below(below)) + file.bytes_below(below) < wanted_bytes:
            return False
        for grave in range(1, below + 1):
            evicted = self._of_orphan(lambda orphan, grave=grave: orphan.evict(grave)) or file.evict(grave)  # type: ignore[misc]
            if evicted:
                self._count("spool_full", evicted)
                return True
        return False

    def _bytes_with_others(self, file: SpoolFile) -> int:
        """Return the bytes in use in the files that we have, and those of the rest of the folder."""
        return file.used_bytes() + self._of_orphan(SpoolFile.used_bytes) + self._others_bytes(file)

    def _of_orphan(self, ask: Callable[[SpoolFile], int]) -> int:
        """Ask the adopted file, if any; 0 where it is damaged, which must not pass for damage of our own."""
        if self._orphan is None:
            return 0
        try:
            return ask(self._orphan)
        except (sqlite3.Error, OSError) as error:
            self._store_failed(self._orphan, error)
            return 0

    def _others_bytes(self, file: SpoolFile) -> int:
        now = time.monotonic()
        ours = {file.path} if self._orphan is None else {file.path, self._orphan.path}
        if self._folder is not None and (now - self._others[0] > _SIZES_FOR_S or ours != self._others[1]):
            self._others = (now, ours, self._folder.others_bytes(ours))
        return self._others[2]

    def _first(self, store: Store, without: set[int]) -> Batch | None:
        try:
            while True:
                batch = store.first(without)
                if batch is None or batch.body:
                    return batch
                self._count("corrupt", batch.records)
                self._log.warn("corrupt", "a batch of %d records in the spool is damaged and was given up", batch.records)
                without = {*without, batch.number}
                store.remove(batch.number)
        except (sqlite3.Error, OSError) as error:
            self._store_failed(store, error)
            return None

    def _change(self, store: Store, change: Callable[[], None]) -> bool:
        with self._lock:
            if self._is_closed or (store is not self._memory and store is not self._own and store is not self._orphan):
                return False
            try:
                change()
            except (sqlite3.Error, OSError) as error:
                self._store_failed(store, error)
                return False
            return True

    def _store_failed(self, store: Store, error: Exception) -> None:
        if not is_damage(error):
            # A full disk lets nothing be deleted either; what was sent is remembered, and the file goes when all of it was.
            self._log.warn("spool", "the spool cannot be read or changed (%s)", error)
        elif isinstance(store, SpoolFile):
            if store is self._own:
                self._own = None
            else:
                self._orphan = None
            self._damaged(store)

    def _damaged(self, file: SpoolFile) -> None:
        self._count("corrupt", max(1, file.records))
        file.set_aside()
        self._log.warn("corrupt", "a file of the spool is damaged and was set aside: %s", file.path)

    def _look_for_orphans(self) -> None:
        if self._folder is None:
            return
        now = time.monotonic()
        if self._orphan is not None and self._is_done(self._orphan):
            self._orphan.discard()
            self._orphan = None
            # There may be more.
            self._adopt_at = now
        while self._orphan is None and now >= self._adopt_at:
            found = self._folder.adopt(None if self._own is None else self._own.path, self._found_damaged)
            if found is None:
                self._adopt_at = now + ADOPT_EVERY_S
            elif self._is_done(found):
                found.discard()
            else:
                self._orphan = found
        if self._own is not None and self._own.is_stuck and self._is_done(self._own):
            # The disk is full and lets nothing be deleted, but a file can go as a whole.
            self._own.discard()
            self._own = None
            self._disk_at = now
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_EVERY_S
            if expired := self._folder.remove_expired():
                self._count("expired", expired)

    def _found_damaged(self, path: object) -> None:
        self._count("corrupt", 1)
        self._log.warn("corrupt", "a file of the spool is damaged and was set aside: %s", path)

    @staticmethod
    def _is_done(file: SpoolFile) -> bool:
        try:
            return file.first(()) is None
        except (sqlite3.Error, OSError):
            return False

    def _end(self, file: SpoolFile) -> None:
        if self._is_done(file):
            file.discard()
        else:
            file.let_go()
