"""The outbox: records go from here to the spool, and from there to the collector.

`put` is a bound check and a `deque.append`: it never blocks and never raises. One background thread writes what was put to
the spool, another sends it (`sender.py`). What cannot be kept is counted by reason, the least grave first. Graver records
than a setting says may wait for the disk before `put` returns.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from isolation_monitor.telemetry.collector_address import CollectorAddress
from isolation_monitor.telemetry.records.batches import RECORDS_LIMIT, pack
from isolation_monitor.telemetry.records.gravity import gravity, rooms
from isolation_monitor.telemetry.records.quiet_log import QuietLog
from isolation_monitor.telemetry.records.sender import Patience, Sender
from isolation_monitor.telemetry.records.spool import DISK_AGAIN_S, Spool
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder

EXIT_FLUSH_S: Final = 2.0
SPOOL_BYTES: Final = 268_435_456
LONGEST_WAIT_ON_LOOP_S: Final = 0.05
LONGEST_WAIT_S: Final = 2.0
_GATHER_S: Final = 0.05
"""A batch waits this long for company: a burst costs one request, a single violation is still out in well under a second."""


class Outbox:
    """Bounded queue of records, a thread that spools them and one that sends them; started by the first record or statement."""

    def __init__(
        self,
        service: str,
        url: str | None,
        token: str | None,
        limit: int,
        count: Callable[[str, int], None],
        *,
        collector: CollectorAddress | None = None,
        folder: SpoolFolder | None = None,
        spool_bytes: int = SPOOL_BYTES,
        sync_from: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`count(what, n)` counts records: the states of `names.RECORD_STATES`, and as lost the reasons of `names.DROP_REASONS`.

        Args:
            limit: records that are kept in memory.
            collector: takes the place of `url` and `token`.
            folder: where the spool is; None: in memory alone.
            spool_bytes: cap of that folder.
            sync_from: from this gravity on, `put` waits for the disk; None: never.
            patience: pauses between attempts.
        """
        self._service = service
        self._collector = collector or CollectorAddress(url, token)
        self._rooms = rooms(limit)
        self._crowded_from = self._rooms[0]
        self._count = count
        self._sync_from = sync_from
        self._patience = patience or Patience()
        self._log = QuietLog()
        self.folder = folder
        self.spool = Spool(folder, spool_bytes, limit, count, self._log)
        self._reset()
        _register(self)

    def _reset(self) -> None:
        # Also after a fork: the parent keeps and sends what it queued; the child starts empty, with its own threads and file.
        self._queue: deque[dict[str, Any]] = deque()
        self._waiting: deque[threading.Event] = deque()
        """Of those who wait until the writer has written everything that is queued now."""
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._writer: threading.Thread | None = None
        self._has_ended = False
        """Whether the writer is beyond looking at who waits."""
        self._not_on_disk = 0
        """How often something could not be kept on disk."""
        self._lock = threading.Lock()
        self._closing = False
        self._in_hand = 0
        instance = f"{socket.gethostname()}:{os.getpid()}"
        self._instance = instance
        self._sender = Sender(self._service, instance, self._collector, self.spool, self._count, self._log, self._patience)

    def __len__(self) -> int:
        return len(self._queue) + self._in_hand + self.spool.records

    def put(self, record: dict[str, Any]) -> bool:
        """Queue one record; drop and count it when there is no room. Without a collector nothing is queued.

        Returns whether it is on disk already, which only records can be that wait for it.
        """
        if self._closing or not self._collector.is_given:
            return False
        queue = self._queue
        waiting = len(queue) + self._in_hand + self.spool.memory_records
        if waiting >= self._crowded_from and waiting >= self._rooms[gravity(record)]:
            self._count("queue_full", 1)
            return False
        before = self._not_on_disk
        queue.append(record)
        if not self._wake.is_set():
            self._wake.set()
        if self._writer is None:
            self.start()
        if self._sync_from is None or gravity(record) < self._sync_from:
            return False
        return self._is_written(LONGEST_WAIT_S if asyncio._get_running_loop() is None else LONGEST_WAIT_ON_LOOP_S, before)

    def tell(self, statement: dict[str, Any]) -> None:
        """Send how things stand now, with the next batch; a newer statement takes the place of one that still waits.

        It takes no room from records, and is not sent again when it did not get through: the next one says it better.
        """
        if not self._collector.is_given or self._closing:
            return
        self._sender.statement.append(statement)
        if self._writer is None:
            self.start()
        self._sender.wake.set()

    def sync(self, timeout_s: float) -> bool:
        """Wait until everything put so far is on disk, for at most so many seconds; whether it is."""
        return self._is_written(timeout_s, self._not_on_disk)

    def _is_written(self, timeout_s: float, before: int) -> bool:
        """`before`: `_not_on_disk` as it was before the first of the records that matter was queued."""
        written = threading.Event()
        if self._writer is not None:
            self._waiting.append(written)
        if self._writer is None or self._has_ended:
            return not self._queue and self._not_on_disk == before
        self._hurry.set()
        self._wake.set()
        return written.wait(timeout_s) and self._not_on_disk == before

    def start(self) -> None:
        """Start the threads, where there is a collector: also to send what a process before this one left in the spool."""
        with self._lock:
            if self._writer is not None or self._closing or not self._collector.is_given:
                return
            writer = threading.Thread(target=self._write, name="isolation-monitor-outbox", daemon=True)
            try:
                writer.start()
            except RuntimeError:
                # No threads are to be had now, or the interpreter is ending: the next record tries again, `close` counts what is left.
                return
            self._writer = writer
            atexit.register(self.close)
            if multiprocessing.parent_process() is not None and "multiprocessing.util" in sys.modules:
                # Children of multiprocessing end without running what was registered with atexit.
                sys.modules["multiprocessing.util"].Finalize(None, self.close, exitpriority=10)

    def close(self, flush_s: float = EXIT_FLUSH_S) -> None:
        """Spool and send what is left, for at most `flush_s` seconds, and stop. What is on no disk then is counted as dropped."""
        until = time.monotonic() + flush_s
        self._closing = True
        self._hurry.set()
        self._wake.set()
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join(max(0.0, until - time.monotonic()))
            self._sender.end(max(0.0, until - time.monotonic()))
        left = len(self._queue) + self.spool.close(max(0.1, until - time.monotonic()))
        self._queue.clear()
        if left:
            self._count("shutdown", left)
        atexit.unregister(self.close)

    # --- the writer's thread --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            is_sending = self._sender.start()
            # What had to stay in memory is tried again on the disk now and then, and so is a sender for which there was no thread.
            self._wake.wait(DISK_AGAIN_S if self.spool.memory_records or not is_sending else None)
            self._wake.clear()
            if not self._closing:
                self._hurry.wait(_GATHER_S)
            self._hurry.clear()
            try:
                self._write_all()
            except Exception as error:
                # Nothing of ours may end the thread.
                self._log.warn("writer", "records could not be written to the spool: %r", error)
            if self._closing and not self._queue:
                self._has_ended = True
                self._release(len(self._waiting))
                return

    def _write_all(self) -> None:
        # Whoever waits has put his record before: it is among those that are taken now, or was taken before.
        waiting = len(self._waiting)
        try:
            while True:
                taken: list[dict[str, Any]] = []
                for _ in range(min(5 * RECORDS_LIMIT, len(self._queue))):
                    # One by one, so that `put` never sees a room that is not there.
                    self._in_hand += 1
                    taken.append(self._queue.popleft())
                if taken:
                    self._count("queued", len(taken))
                batches = pack(taken, self._instance, self._cannot_be_sent)
                if not self.spool.add(batches) or sum(batch.records for batch in batches) < len(taken):
                    self._not_on_disk += 1
                self._in_hand = 0
                self._sender.wake.set()
                if not self._queue:
                    return
        except BaseException:
            self._not_on_disk += 1
            raise
        finally:
            self._in_hand = 0
            self._release(waiting)

    def _release(self, number: int) -> None:
        for _ in range(number):
            self._waiting.popleft().set()

    def _cannot_be_sent(self, error: Exception) -> None:
        self._count("rejected", 1)
        self._log.warn("json", "a record cannot be written as JSON: %r", error)

    # --- forks ----------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        self.spool.before_fork()

    def after_fork_in_parent(self) -> None:
        self.spool.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        self.spool.after_fork_in_child()
        self._reset()


# --- forks: one hook for all outboxes of the process ------------------------------------------------------------------

_OUTBOXES: Final[weakref.WeakSet[Outbox]] = weakref.WeakSet()
_is_hooked = threading.Event()


def _register(outbox: Outbox) -> None:
    if not _is_hooked.is_set():
        _is_hooked.set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=lambda: _each(Outbox.before_fork),
                after_in_parent=lambda: _each(Outbox.after_fork_in_parent),
                after_in_child=lambda: _each(Outbox.after_fork_in_child),
            )
    _OUTBOXES.add(outbox)


def _each(act: Callable[[Outbox], None]) -> None:
    for outbox in list(_OUTBOXES):
        # Closed ones have nothing to lose; an error of ours must not break the host's fork.
        try:
            act(outbox)
        except Exception:
            continue
