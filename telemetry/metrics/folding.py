"""Folding: the files of dead workers become lines of one archive, so a service that restarts its workers for ever stays small.

Safe against being killed at any point: the archive is replaced in one step and names what it holds, so files that could
not be removed any more are known to be counted.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry import filelock
from isolation_monitor.telemetry.metrics.caps import admit
from isolation_monitor.telemetry.metrics.definitions import Family, SeriesKey, archive_line, family_line, header_line
from isolation_monitor.telemetry.metrics.group import (
    ARCHIVE,
    CELLS_SUFFIX,
    CLOSED_SUFFIX,
    LOCK,
    SERIES_SUFFIX,
    series_files,
    worker_is_alive,
)
from isolation_monitor.telemetry.metrics.pacing import Pacer
from isolation_monitor.telemetry.metrics.sources import Archive, Source, WorkerFiles
from isolation_monitor.telemetry.names import OTHER

KEEP_DEAD: Final = 8
"""Files of dead workers that may lie around before they are folded."""
_REMEMBER_S: Final = 600.0
"""How long a folded worker's name is kept after its file is gone, for readers that opened it just before."""


def fold_dead_workers(directory: Path, pause: Pacer, keep: int = KEEP_DEAD) -> bool:
    """Fold all dead workers when there are more than `keep`. Returns whether it did; False too when another process is at it.

    Raises:
        OSError: the folder cannot be written.
    """
    if len(_dead(directory)) <= keep:
        return False
    with filelock.exclusive(directory / LOCK) as is_ours:
        if is_ours:
            _fold(directory, pause)
        return is_ours


def _dead(directory: Path) -> list[Path]:
    return [path for path in series_files(directory) if not worker_is_alive(path)]


def _fold(directory: Path, pause: Pacer) -> None:
    archive = Archive(directory / ARCHIVE)
    for _ in archive.load():
        pause()
    dead = _dead(directory)
    counts = _Counts(pause)
    counts.add(archive)
    for path in dead:
        if path.stem in archive.folded:
            continue
        with contextlib.closing(WorkerFiles(path)) as worker:
            for _ in worker.refresh():
                pause()
            counts.add(worker)

    now = time.time()
    folded = {
        name: when for name, when in archive.folded.items() if now - when < _REMEMBER_S or (directory / f"{name}{SERIES_SUFFIX}").exists()
    }
    folded |= {path.stem: now for path in dead}
    _replace(directory / ARCHIVE, counts.lines(folded))
    for path in dead:
        for suffix in (CELLS_SUFFIX, CLOSED_SUFFIX, SERIES_SUFFIX):
            path.with_suffix(suffix).unlink(missing_ok=True)


class _Counts:
    """The counters and histograms of several sources, added up. Gauges die with their worker."""

    def __init__(self, pause: Pacer) -> None:
        self._pause = pause
        self._families: dict[str, Family] = {}
        self._totals: dict[SeriesKey, list[float]] = {}
        self._learned: dict[str, tuple[set[str], ...]] = {}

    def add(self, source: Source) -> None:
        """Add what `source` counted."""
        doubles = [value for piece in source.doubles() for value in piece]
        for name, family in source.families.items():
            if family.type == "gauge" or not self._families.setdefault(name, family).merges_with(family):
                continue
            width = family.width
            for values in source.per_family.get(name, ()):
                self._pause()
                at = source.positions[name, values]
                both = [a + b for a, b in zip(doubles[at : at + width], doubles[at + width : at + 2 * width], strict=False)]
                if len(both) == width and any(both):
                    key = (name, self._capped(family, values))
                    held = self._totals.get(key)
                    self._totals[key] = both if held is None else [a + b for a, b in zip(held, both, strict=True)]

    def lines(self, folded: dict[str, float]) -> bytes:
        """The archive file that holds these counts in place of the workers named by `folded`."""
        numbers = {name: number for number, name in enumerate(self._families)}
        lines = [header_line(folded=folded), *(family_line(numbers[name], family) for name, family in self._families.items())]
        for (name, values), totals in self._totals.items():
            self._pause()
            lines.append(archive_line(numbers[name], values, totals))
        return b"".join(lines)

    def _capped(self, family: Family, values: tuple[str, ...]) -> tuple[str, ...]:
        # The archive obeys the same label caps as a worker: many short lives must not add up to many series.
        learned = self._learned.setdefault(family.name, tuple(set() for _ in family.caps))
        return tuple(
            value if cap is None or value == OTHER or admit(value, known, cap) else OTHER
            for value, cap, known in zip(values, family.caps, learned, strict=True)
        )


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
