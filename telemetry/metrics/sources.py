"""Sources: where a group's numbers are read from. This process's own cells, the files of other workers, the archive."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry.metrics.cells import DOUBLE, SEGMENT_CELLS, doubles_of
from isolation_monitor.telemetry.metrics.definitions import Definitions, Family, SeriesKey
from isolation_monitor.telemetry.metrics.group import ARCHIVE, CELLS_SUFFIX, series_files, worker_is_alive

_SERIAL: Final = itertools.count()


class Source:
    """Series and their doubles, as one reader sees them.

    `per_family` lists the label values of each family's series in order; a series' lane 0 starts at `positions[key]` of the
    doubles, lane 1 follows. `is_live` says whether its gauges count.
    """

    def __init__(self) -> None:
        self.serial = next(_SERIAL)
        self.families: dict[str, Family] = {}
        self.per_family: dict[str, list[tuple[str, ...]]] = {}
        self.positions: dict[SeriesKey, int] = {}
        self.is_live = True

    def doubles(self) -> Iterator[list[float]]:
        """Yield the doubles as they are now, in pieces, so that a caller can pause between two."""
        raise NotImplementedError


class WorkerFiles(Source):
    """The file pair of another worker, alive or dead."""

    def __init__(self, series_file: Path) -> None:
        """Open both files.

        Raises:
            OSError: they are gone, for example just folded into the archive.
        """
        super().__init__()
        self.path = series_file
        self._definitions = Definitions(families=self.families, positions=self.positions, per_family=self.per_family)
        self._tail = b""
        self._mapping: mmap.mmap | None = None
        self._view: memoryview[float] | None = None
        self._series_fd = os.open(series_file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            self._cells_fd = os.open(series_file.with_suffix(CELLS_SUFFIX), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            os.close(self._series_fd)
            raise

    def refresh(self) -> Iterator[None]:
        """Read the lines that were appended since the last time; yields between slices."""
        self.is_live = worker_is_alive(self.path)
        while piece := os.read(self._series_fd, 65_536):
            *lines, self._tail = (self._tail + piece).split(b"\n")
            yield from self._definitions.feed(lines)
            yield

    def is_whole(self) -> bool:
        """Whether every series lies within the file of cells; a damaged pair must not spoil the page."""
        newest = next(reversed(self.positions), None)
        if newest is None:
            return True
        end = self.positions[newest] + 2 * self.families[newest[0]].width
        return end * DOUBLE <= os.fstat(self._cells_fd).st_size

    def doubles(self) -> Iterator[list[float]]:
        """Yield the doubles of the file by segments. A mapping reads each double whole; a file read might tear one."""
        size = os.fstat(self._cells_fd).st_size // DOUBLE * DOUBLE
        if size and (self._view is None or self._view.nbytes < size):
            self._unmap()
            self._mapping = mmap.mmap(self._cells_fd, size, access=mmap.ACCESS_READ)
            self._view = memoryview(self._mapping).cast("d")
        if self._view is not None:
            for start in range(0, len(self._view), SEGMENT_CELLS):
                yield doubles_of(self._view[start : start + SEGMENT_CELLS])

    def close(self) -> None:
        """Let go of both files."""
        self._unmap()
        for fd in (self._series_fd, self._cells_fd):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _unmap(self) -> None:
        if self._view is not None:
            self._view.release()
            self._view = None
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None


class Archive(Source):
    """The counts of dead workers, added up. `folded` names the workers whose files it replaces, even if they still lie there."""

    def __init__(self, path: Path) -> None:
        """Read the archive at `path`; an absent one is empty."""
        super().__init__()
        self.is_live = False
        self.folded: dict[str, float] = {}
        self._doubles: list[float] = []
        self._path = path

    def load(self) -> Iterator[None]:
        """Read the file; yields between slices."""
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except OSError:
            return
        definitions = Definitions()
        yield from definitions.feed(lines)
        self.families, self.per_family = definitions.families, definitions.per_family
        self.folded = {str(name): float(when) for name, when in definitions.header.get("folded", {}).items()}
        for key, totals in definitions.totals.items():
            self.positions[key] = len(self._doubles)
            self._doubles += totals
            self._doubles += [0.0] * len(totals)

    def doubles(self) -> Iterator[list[float]]:
        """Yield the doubles by segments; lane 1 is all zero."""
        for start in range(0, len(self._doubles), SEGMENT_CELLS):
            yield self._doubles[start : start + SEGMENT_CELLS]


class Others:
    """Everybody of the group but this process's own registry, kept up to date between scrapes.

    No lock is needed: the workers' files are opened before the archive is read, and the archive names the files it
    replaces. So a worker folded at any moment in between is counted exactly once.
    """

    def __init__(self, directory: Path, own_file: Path) -> None:
        self._directory = directory
        self._own_file = own_file
        self._workers: dict[Path, WorkerFiles] = {}
        self._archive: Archive | None = None
        self._archive_stamp: tuple[int, int] | None = None

    def refresh(self) -> Iterator[None]:
        """Look at the folder again; yields between slices."""
        found = [path for path in series_files(self._directory) if path != self._own_file]
        for gone in self._workers.keys() - set(found):
            self._workers.pop(gone).close()
        for path in found:
            if path not in self._workers:
                try:
                    self._workers[path] = WorkerFiles(path)
                except OSError:
                    continue
            yield from self._workers[path].refresh()
        yield from self._refresh_archive()

    def sources(self) -> list[Source]:
        """The archive and the workers that it does not hold, in a stable order."""
        archive = [] if self._archive is None else [self._archive]
        folded = {} if self._archive is None else self._archive.folded
        return [*archive, *(worker for path, worker in self._workers.items() if path.stem not in folded and worker.is_whole())]

    def dead(self) -> int:
        """How many dead workers' files are there to fold."""
        return sum(not worker.is_live for worker in self._workers.values())

    def close(self) -> None:
        """Let go of all files."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _refresh_archive(self) -> Iterator[None]:
        path = self._directory / ARCHIVE
        try:
            stat = path.stat()
        except OSError:
            return
        stamp = (stat.st_ino, stat.st_mtime_ns)
        if stamp != self._archive_stamp:
            archive = Archive(path)
            yield from archive.load()
            self._archive, self._archive_stamp = archive, stamp
