"""This process's own series: its cells, and the file in which it tells the other workers what they are."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry import filelock
from isolation_monitor.telemetry.metrics.cells import CellStore, Room
from isolation_monitor.telemetry.metrics.definitions import Family, family_line, header_line, series_line
from isolation_monitor.telemetry.metrics.group import CELLS_SUFFIX, CLOSED_SUFFIX, LOGGER, SERIES_SUFFIX, ProcessId
from isolation_monitor.telemetry.metrics.sources import Source

_NUMBERS: Final = itertools.count()
"""Tells the registries of one process apart. Never reused: the archive knows a folded file by its name."""


class OwnSource(Source):
    """The series of this process. All methods but `doubles` are called under the registry's lock."""

    def __init__(self, directory: Path | None, service: str) -> None:
        super().__init__()
        self.series_file: Path | None = None
        self._pid = os.getpid()
        self._fd: int | None = None
        self._numbers: dict[str, int] = {}
        self._batch: list[bytes] | None = None
        if directory is not None:
            self._open(directory)
        self._cells = CellStore(None if self.series_file is None else self.series_file.with_suffix(CELLS_SUFFIX))
        self._append(header_line(service=service, pid=self._pid))

    def declare(self, family: Family) -> Family:
        """Make `family` known; returns the one that holds (the first of its name)."""
        known = self.families.get(family.name)
        if known is not None:
            return known
        number = self._numbers[family.name] = len(self._numbers)
        self.families[family.name] = family
        self.per_family[family.name] = []
        self._append(family_line(number, family))
        return family

    def add(self, family: Family, values: tuple[str, ...]) -> Room:
        """Make room for a new series of a declared family."""
        room = self._cells.allocate(2 * family.width)
        # A scrape may be reading: it goes by the list, so the position must be there first.
        self.positions[family.name, values] = room.position
        self.per_family[family.name].append(values)
        if room.is_shared:
            self._append(series_line(self._numbers[family.name], values, room.position))
        return room

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write the lines of many new series at once."""
        self._batch = []
        try:
            yield
        finally:
            lines, self._batch = self._batch, None
            self._append(b"".join(lines))

    def doubles(self) -> Iterator[list[float]]:
        """Yield the doubles by segments."""
        return self._cells.snapshot()

    def close(self) -> None:
        """Tell the others that nothing more comes from here. The cells stay usable."""
        # In a child whose fork hook failed the file is still the parent's, who counts on.
        if self.series_file is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self.series_file.with_suffix(CLOSED_SUFFIX).touch(mode=0o600)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files without a word: in a forked child they are the parent's."""
        self._cells.close()
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _open(self, directory: Path) -> None:
        process = ProcessId.of(os.getpid())
        for _ in range(1000):
            path = directory / f"w-{process}-{next(_NUMBERS)}{SERIES_SUFFIX}"
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
            except FileExistsError:
                continue
            except OSError as error:
                LOGGER.warning("this worker's metrics stay its own, the folder of the group cannot be written: %s", error)
                return
            filelock.hold_while_open(self._fd)
            self.series_file = path
            return

    def _append(self, lines: bytes) -> None:
        if self._batch is not None:
            self._batch.append(lines)
            return
        if self._fd is None or not lines:
            return
        try:
            written = os.write(self._fd, lines)
            if written < len(lines):
                raise OSError(f"wrote {written} of {len(lines)} bytes: the disk is full")
        except OSError as error:
            LOGGER.warning("new series of this worker stay its own, its file cannot be written: %s", error)
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None
