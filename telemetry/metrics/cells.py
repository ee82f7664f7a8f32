"""Cells: the numbers of this process, as doubles in a file that other workers can read while we write.

A cell is eight bytes of a shared mapping, so adding to it is one memory write: no lock, no system call, and a worker
that is killed leaves its counts behind in the page cache. The file grows by segments of a fixed size, each mapped once
and never moved, so a memoryview handed out stays valid for the life of the process.

Each series has two lanes: lane 0 is written by the thread that serves the event loop, lane 1 by every other thread under
a lock. Readers add both. Index arithmetic: lane 0 of a series of width `w` is at `index .. index+w-1`, lane 1 follows.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from threading import get_ident
from typing import Final, NamedTuple, cast

SEGMENT_BYTES: Final = max(32_768, mmap.ALLOCATIONGRANULARITY)
DOUBLE: Final = 8
SEGMENT_CELLS: Final = SEGMENT_BYTES // DOUBLE


class Lanes:
    """Which thread owns lane 0, and the lock of lane 1. Shared by all cells of a registry."""

    __slots__ = ("lock", "owner")

    def __init__(self) -> None:
        self.owner: int | None = None
        # Re-entrant: a finalizer that runs inside `inc` on the same thread may itself count something.
        self.lock = threading.RLock()


class Cell:
    """One counter or gauge.

    The hot path, on the event-loop thread only, is `cell.values[cell.index] += 1.0`. Read both attributes each time:
    after a fork the child's cells point to other memory. From any other thread call the methods.
    """

    __slots__ = ("_lanes", "index", "values")

    def __init__(self, values: memoryview[float], index: int, lanes: Lanes) -> None:
        self.values = values
        self.index = index
        self._lanes = lanes

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount`. Right from any thread; no update is lost."""
        if get_ident() == self._lanes.owner:
            self.values[self.index] += amount
            return
        with self._lanes.lock:
            self.values[self.index + 1] += amount

    def dec(self, amount: float = 1.0) -> None:
        """Subtract `amount` (gauges). Right from any thread."""
        self.inc(-amount)

    def set(self, value: float) -> None:
        """Make the cell read `value` (gauges): one store, so a scrape never sees a value in between."""
        with self._lanes.lock:
            self.values[self.index] = value - self.values[self.index + 1]

    def value(self) -> float:
        """What this process counted, both lanes together; other workers are not included."""
        return float(self.values[self.index] + self.values[self.index + 1])

    def rebind(self, values: memoryview[float], index: int) -> None:
        """Point to other memory: in the child after a fork."""
        self.values = values
        self.index = index


class HistogramCell:
    """One histogram: a count per bucket (not cumulative, the last is +Inf), then the sum.

    On the event-loop thread `observe` may be written out as
    `cell.values[cell.index + bisect_left(cell.bounds, v)] += 1.0; cell.values[cell.index + cell.sum_offset] += v`.
    """

    __slots__ = ("_lanes", "bounds", "index", "sum_offset", "values", "width")

    def __init__(self, values: memoryview[float], index: int, lanes: Lanes, bounds: tuple[float, ...]) -> None:
        self.values = values
        self.index = index
        self._lanes = lanes
        self.bounds = bounds
        self.sum_offset = len(bounds) + 1
        self.width = len(bounds) + 2

    def observe(self, value: float) -> None:
        """Count `value` in its bucket and add it to the sum. Right from any thread. NaN is dropped: it would spoil the sum for ever."""
        if value != value:
            return
        bucket = bisect_left(self.bounds, value)
        values, base = self.values, self.index
        if get_ident() == self._lanes.owner:
            values[base + bucket] += 1.0
            values[base + self.sum_offset] += value
            return
        with self._lanes.lock:
            # Read again: memory may have moved while we waited.
            values, base = self.values, self.index + self.width
            values[base + bucket] += 1.0
            values[base + self.sum_offset] += value

    def count(self) -> float:
        """Observations of this process, both lanes together."""
        lanes = (self.index, self.index + self.width)
        return float(sum(self.values[base + bucket] for base in lanes for bucket in range(self.sum_offset)))

    def sum(self) -> float:
        """Sum of what this process observed, both lanes together."""
        return float(self.values[self.index + self.sum_offset] + self.values[self.index + self.width + self.sum_offset])

    def rebind(self, values: memoryview[float], index: int) -> None:
        """Point to other memory: in the child after a fork."""
        self.values = values
        self.index = index


def unexposed_histogram(bounds: tuple[float, ...]) -> HistogramCell:
    """Return a histogram in private memory that no page shows: for a path that counts without asking whether."""
    return HistogramCell(memoryview(bytearray(2 * (len(bounds) + 2) * DOUBLE)).cast("d"), 0, Lanes(), bounds)


class Room(NamedTuple):
    """Where a series lives: a segment and the offset in it, its position among all doubles, and whether others can see it."""

    values: memoryview[float]
    offset: int
    position: int
    is_shared: bool


class CellStore:
    """The growing file of this process's cells. Without a path, or when the disk is full, the cells are private memory."""

    def __init__(self, path: Path | None) -> None:
        self._fd: int | None = None
        self._segments: list[memoryview[float]] = []
        self._used = SEGMENT_CELLS
        self._shared_segments = 0
        if path is not None:
            with contextlib.suppress(OSError):
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)

    def allocate(self, width: int) -> Room:
        """Return zeroed room for `width` doubles. Call under the registry's lock."""
        if width > SEGMENT_CELLS:
            raise ValueError(f"a series of {width} cells does not fit a segment of {SEGMENT_CELLS}: use fewer buckets")
        if self._used + width > SEGMENT_CELLS:
            self._grow()
        number, index = len(self._segments) - 1, self._used
        self._used += width
        return Room(self._segments[number], index, number * SEGMENT_CELLS + index, number < self._shared_segments)

    def snapshot(self) -> Iterator[list[float]]:
        """Yield all doubles of this process, one list per segment."""
        for segment in list(self._segments):
            yield doubles_of(segment)

    def close(self) -> None:
        """Close the file. The cells stay usable: their mapping lives as long as somebody holds them."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _grow(self) -> None:
        number = len(self._segments)
        mapping: mmap.mmap | None = None
        if self._fd is not None and number == self._shared_segments:
            try:
                _reserve(self._fd, number * SEGMENT_BYTES)
                mapping = mmap.mmap(self._fd, SEGMENT_BYTES, offset=number * SEGMENT_BYTES)
                self._shared_segments += 1
            except (OSError, ValueError):
                # A full disk would kill the process by SIGBUS at the first write; private memory only hides us from the others.
                mapping = None
        self._segments.append(memoryview(mmap.mmap(-1, SEGMENT_BYTES) if mapping is None else mapping).cast("d"))
        self._used = 0


def doubles_of(view: memoryview[float]) -> list[float]:
    """The doubles of `view`, each read whole."""
    # typeshed says list[int] for every format.
    return cast("list[float]", view.tolist())


def _reserve(fd: int, offset: int) -> None:
    """Give the file real blocks up to the end of the segment at `offset`.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, offset, SEGMENT_BYTES)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV):
                raise
    os.lseek(fd, offset, os.SEEK_SET)
    os.write(fd, bytes(SEGMENT_BYTES))
