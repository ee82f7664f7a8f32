"""The registry: hands out cells for the catalogue's metrics and renders the numbers of all workers.

`counter`, `gauge` and `histogram` look a series up or make it; keep what they return. The cold path may take a lock and
append a line to a file; adding to a cell never does. Nothing here raises into the host after start: labels beyond their
cap or outside their closed set become `other` and are counted, and without a usable folder the numbers stay in memory.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import IsolationMonitorError
from isolation_monitor.telemetry.metrics import exposition
from isolation_monitor.telemetry.metrics.caps import admit
from isolation_monitor.telemetry.metrics.cells import Cell, HistogramCell, Lanes
from isolation_monitor.telemetry.metrics.definitions import Family, SeriesKey
from isolation_monitor.telemetry.metrics.folding import KEEP_DEAD, fold_dead_workers
from isolation_monitor.telemetry.metrics.group import LOGGER, Group, open_group, series_files, worker_is_alive
from isolation_monitor.telemetry.metrics.merging import Chunk, Merger, Snapshots
from isolation_monitor.telemetry.metrics.own import OwnSource
from isolation_monitor.telemetry.metrics.pacing import Pacer
from isolation_monitor.telemetry.metrics.sources import Others, Source
from isolation_monitor.telemetry.names import OTHER, Metric

Page = Literal["isolation", "main"] | None
"""Which families: the small page, the rest, or (None) both."""


class MetricUsageError(IsolationMonitorError):
    """A metric was asked for as another type than the catalogue says, or (strict registries) with labels it does not have."""


@dataclass(frozen=True, slots=True)
class SeriesValue:
    """One series of all workers together: `values` is one number, or a histogram's cumulative buckets, count and sum."""

    family: Family
    labels: dict[str, str]
    values: tuple[float, ...]


class MetricRegistry:
    """The cells of one service in this process, and the view of all workers' cells.

    `directory` (or ISOLATION_METRICS_DIR) is the folder that workers share; without it one is found under the temporary
    folder. `series_cap` bounds the exposed samples of series with learned labels. `strict` raises for wrong labels instead
    of counting them, for tests.
    """

    def __init__(self, service: str, directory: Path | None = None, *, series_cap: int = 20_000, strict: bool = False) -> None:
        self.service = _clean(service)
        self.longest_stretch_s = 0.0
        """Longest stretch of CPU time of any render so far, without letting other threads run."""
        self._strict = strict
        self._series_cap = series_cap
        self._lock = threading.RLock()
        self._render_lock = threading.Lock()
        self._lanes = Lanes()
        self._cells: dict[SeriesKey, Cell | HistogramCell] = {}
        self._learned: dict[tuple[str, str], set[str]] = {}
        self._closed_labels: dict[str, tuple[frozenset[str] | None, ...]] = {}
        self._learned_lines = 0
        self._exposed_lines = 0
        self._is_closed = False
        self._after_fork: list[Callable[[], None]] = []
        self._group = open_group(self.service, directory)
        self._own = OwnSource(self._group.path, self.service)
        self._merger = Merger()
        self._others = self._open_others()
        self._release = weakref.finalize(self, _release, self._own, self._group)
        """Runs once: at `close`, when this registry is forgotten, or when the process ends."""
        _register(self)

    # --- making cells -------------------------------------------------------------------------------------------------

    def counter(self, metric: Metric, **labels: str) -> Cell:
        """Return the cell of a counter series; the same one for the same labels."""
        return self._simple(metric, "counter", labels)

    def gauge(self, metric: Metric, **labels: str) -> Cell:
        """Return the cell of a gauge series; the same one for the same labels."""
        return self._simple(metric, "gauge", labels)

    def histogram(self, metric: Metric, **labels: str) -> HistogramCell:
        """Return the cell of a histogram series; the same one for the same labels."""
        cell = self._find(metric, "histogram", labels)
        assert isinstance(cell, HistogramCell)  # for the type checker: `_find` made it by the metric's type
        return cell

    def declare(self, metric: Metric) -> None:
        """Expose `metric` from now on; where all its label sets are closed, all children appear at 0."""
        with self._lock:
            self._own.declare(Family.of(metric))
            children: list[dict[str, str]] = [{}]
            for label, allowed in metric.labels.items():
                if isinstance(allowed, int):
                    return
                children = [{**child, label: value} for child in children for value in allowed]
            for child in filter(metric.possible, children):
                self._find(metric, metric.type, child)

    def own_thread(self) -> None:
        """Say that the calling thread serves the event loop: it writes lane 0, everybody else lane 1. The last call holds."""
        self._lanes.owner = threading.get_ident()

    # --- reading ------------------------------------------------------------------------------------------------------

    def render(self, endpoint: Page = None, openmetrics: bool = False) -> bytes:
        """The page as text, all workers merged. Takes milliseconds: call it from a worker thread, not on the event loop."""
        with self._render_lock:
            pause = Pacer()
            tables, snapshots = self._look(endpoint, pause)
            parts: list[bytes] = []
            for family, chunks in tables:
                parts.append(exposition.header(family, openmetrics))
                for chunk in chunks:
                    parts.append(exposition.chunk_text(chunk, self.service, snapshots, openmetrics))
                    pause()
            if openmetrics:
                parts.append(exposition.OPENMETRICS_END)
            # Beyond a mebibyte CPython joins without holding the interpreter (since 3.10): no stretch to count.
            page = b"".join(parts)
            self.longest_stretch_s = max(self.longest_stretch_s, pause.longest_s)
            return page

    def series(self, endpoint: Page = None) -> list[SeriesValue]:
        """All series of all workers as values, in the order of the page; for adapters and tests."""
        with self._render_lock:
            pause = Pacer()
            tables, snapshots = self._look(endpoint, pause)
            found: list[SeriesValue] = []
            for family, chunks in tables:
                for chunk in chunks:
                    numbers = chunk.totals(snapshots)
                    if family.type == "histogram":
                        numbers = exposition.cumulative(numbers, family.width)
                    for at, values in enumerate(chunk.keys):
                        labels = {"service": self.service, **dict(zip(family.label_names, values, strict=True))}
                        found.append(SeriesValue(family, labels, tuple(numbers[at * family.lines : (at + 1) * family.lines])))
                    pause()
            return found

    def families(self, endpoint: Page = None) -> list[Family]:
        """All families of all workers, also those without a series yet."""
        with self._render_lock:
            tables, _ = self._look(endpoint, Pacer())
            return [family for family, _ in tables]

    def value(self, metric: Metric, **labels: str) -> float:
        """The number of all workers for one series (a histogram's count); 0.0 where it does not exist. For tests."""
        wanted = {"service": self.service, **labels}
        for entry in self.series(metric.endpoint):
            if entry.family.name == metric.name and entry.labels == wanted:
                return entry.values[-2] if metric.type == "histogram" else entry.values[0]
        return 0.0

    @property
    def directory(self) -> Path | None:
        """The folder that the workers share; None when the numbers stay in memory."""
        return self._group.path

    # --- life ---------------------------------------------------------------------------------------------------------

    def on_fork(self, callback: Callable[[], None]) -> None:
        """Call `callback` in each child that this process forks, after its cells are its own."""
        self._after_fork.append(callback)

    def close(self) -> None:
        """Stop sharing. The cells stay usable; the folder goes if we chose it and nobody else counts in it. Never raises."""
        with self._lock:
            self._is_closed = True
            self._release()
        # A scrape may still be running in its thread; it finishes with the files that it has open.
        if self._render_lock.acquire(timeout=1.0):
            try:
                if self._others is not None:
                    self._others.close()
                    self._others = None
            finally:
                self._render_lock.release()

    def _open_others(self) -> Others | None:
        path, own_file = self._group.path, self._own.series_file
        if path is None or own_file is None:
            return None
        self._fold(Pacer())
        return Others(path, own_file)

    def _fold(self, pause: Pacer) -> bool:
        if self._group.path is None:
            return False
        try:
            return fold_dead_workers(self._group.path, pause)
        except OSError as error:
            LOGGER.debug("cannot fold the counts of dead workers: %s", error)
            return False

    def _before_fork(self) -> None:
        # The child must not inherit a half-made series, nor a lock that no thread of it will ever release.
        self._lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self._lock.release()

    def _after_fork_in_child(self) -> None:
        """Count from zero in files of our own: parent and child never write the same cell."""
        self._lock = threading.RLock()
        self._render_lock = threading.Lock()
        owner, self._lanes.owner, self._lanes.lock = self._lanes.owner, None, threading.RLock()
        if owner == threading.get_ident():
            self._lanes.owner = owner
        if self._others is not None:
            self._others.close()
        path = None if self._is_closed else self._group.path
        before = self._own
        before.abandon()
        self._release.detach()
        self._own = OwnSource(path, self.service)
        for family in before.families.values():
            self._own.declare(family)
        with self._own.batch():
            for (name, values), cell in self._cells.items():
                room = self._own.add(before.families[name], values)
                cell.rebind(room.values, room.offset)
        self._count_series()
        self._merger = Merger()
        self._others = self._open_others()
        self._release = weakref.finalize(self, _release, self._own, self._group)
        for callback in self._after_fork:
            callback()

    # --- the cold path ------------------------------------------------------------------------------------------------

    def _simple(self, metric: Metric, kind: Literal["counter", "gauge"], labels: dict[str, str]) -> Cell:
        cell = self._find(metric, kind, labels)
        assert isinstance(cell, Cell)  # for the type checker: `_find` made it by the metric's type
        return cell

    def _find(self, metric: Metric, kind: str, labels: dict[str, str]) -> Cell | HistogramCell:
        if metric.type != kind:
            raise MetricUsageError(f"{metric.name} is a {metric.type}, not a {kind}: ask for it by `registry.{metric.type}`")
        try:
            return self._cells[metric.name, tuple([labels[name] for name in metric.labels])]
        except (KeyError, TypeError):
            pass
        with self._lock:
            values = self._allowed(metric, labels)
            cell = self._cells.get((metric.name, values))
            return self._make(metric, values) if cell is None else cell

    def _allowed(self, metric: Metric, labels: dict[str, str]) -> tuple[str, ...]:
        """The label values under which a new series may stand: learned up to the cap, known to the closed set, else `other`."""
        if self._strict and labels.keys() != metric.labels.keys():
            raise MetricUsageError(f"{metric.name} has the labels {sorted(metric.labels)}, not {sorted(labels)}")
        closed = self._closed_labels.get(metric.name)
        if closed is None:
            closed = tuple(None if isinstance(allowed, int) else frozenset(allowed) for allowed in metric.labels.values())
            self._closed_labels[metric.name] = closed
        values = []
        over_cap = False
        for (label, cap), members in zip(metric.labels.items(), closed, strict=True):
            value = _clean(labels.get(label, OTHER))
            if members is not None:
                if value not in members:
                    if self._strict:
                        raise MetricUsageError(f'{metric.name}{{{label}="{value}"}} is not one of {sorted(members)}')
                    value, over_cap = OTHER, True
            elif isinstance(cap, int) and value != OTHER and not admit(value, self._learned.setdefault((metric.name, label), set()), cap):
                value, over_cap = OTHER, True
            values.append(value)
        if over_cap:
            self._drop("label_cap")
        return self._within_series_cap(metric, tuple(values), closed)

    def _within_series_cap(self, metric: Metric, values: tuple[str, ...], closed: tuple[frozenset[str] | None, ...]) -> tuple[str, ...]:
        # Series without a learned value cannot multiply: the catalogue bounds them, so they are let through.
        is_learned = any(members is None and value != OTHER for value, members in zip(values, closed, strict=True))
        if not is_learned or (metric.name, values) in self._cells:
            return values
        lines = Family.of(metric).lines
        if self._learned_lines + lines > self._series_cap:
            self._drop("series_cap")
            return tuple(OTHER if members is None else value for value, members in zip(values, closed, strict=True))
        self._learned_lines += lines
        return values

    def _make(self, metric: Metric, values: tuple[str, ...]) -> Cell | HistogramCell:
        family = self._own.declare(Family.of(metric))
        room = self._own.add(family, values)
        cell: Cell | HistogramCell
        if family.type == "histogram":
            cell = HistogramCell(room.values, room.offset, self._lanes, family.buckets)
        else:
            cell = Cell(room.values, room.offset, self._lanes)
        self._cells[metric.name, values] = cell
        self._exposed_lines += family.lines
        self._count_series()
        return cell

    def _drop(self, reason: str) -> None:
        self.counter(names.MONITOR_DROPPED, reason=reason).inc()

    def _count_series(self) -> None:
        cell = self._cells.get((names.MONITOR_SERIES.name, ()))
        if isinstance(cell, Cell):
            cell.set(float(self._exposed_lines))

    # --- scraping -----------------------------------------------------------------------------------------------------

    def _look(self, endpoint: Page, pause: Pacer) -> tuple[list[tuple[Family, list[Chunk]]], Snapshots]:
        """The families of a page with their series, and the numbers of all sources at about this moment."""
        # Our own families come first, so a page keeps its order whatever the other workers do.
        sources: list[Source] = [self._own, *self._refresh_others(pause)]
        families = [family for family in self._merger.families(sources) if endpoint is None or family.endpoint == endpoint]
        tables = [(family, list(self._merger.chunks(family, sources, pause))) for family in families]
        # Numbers are read after the list of series: what appears in between waits for the next scrape, what is listed is there.
        snapshots: Snapshots = {}
        for source in sources:
            doubles: list[float] = []
            for piece in source.doubles():
                doubles += piece
                pause()
            doubles.append(0.0)
            snapshots[source.serial] = doubles
        return tables, snapshots

    def _refresh_others(self, pause: Pacer) -> list[Source]:
        others = self._others
        if others is None:
            return []
        try:
            for _ in others.refresh():
                pause()
            if others.dead() > KEEP_DEAD and self._fold(pause):
                for _ in others.refresh():
                    pause()
            return others.sources()
        except (OSError, ValueError) as error:
            LOGGER.debug("cannot read the counts of other workers: %s", error)
            return []


def _release(own: OwnSource, group: Group) -> None:
    """Say that `own` counts no more, and remove the group's folder if it is ours to remove and nobody counts in it."""
    own.close()
    if group.path is not None and group.owned_by_this_process() and not any(map(worker_is_alive, series_files(group.path))):
        shutil.rmtree(group.path, ignore_errors=True)


def _clean(value: str) -> str:
    """A label value that can be written: no lone surrogates, at most 200 characters."""
    return str(value)[:200].encode("utf-8", "replace").decode()


# --- forks: one hook for all registries of the process ---------------------------------------------------------

_REGISTRIES: Final[weakref.WeakSet[MetricRegistry]] = weakref.WeakSet()
_HELD: Final = threading.local()
"""`registries`: those whose locks this thread holds between the start of a fork and its end."""
_is_hooked = threading.Event()


def _register(registry: MetricRegistry) -> None:
    if not _is_hooked.is_set():
        _is_hooked.set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    _REGISTRIES.add(registry)


def _before_fork() -> None:
    _HELD.registries = list(_REGISTRIES)
    for registry in _HELD.registries:
        registry._before_fork()


def _after_fork_in_parent() -> None:
    for registry in _HELD.__dict__.pop("registries", ()):
        registry._after_fork_in_parent()


def _after_fork_in_child() -> None:
    for registry in _HELD.__dict__.pop("registries", ()):
        try:
            registry._after_fork_in_child()
        except Exception:  # a guest in its host: a fork must not fail because of us
            LOGGER.exception("the forked process shows no metrics of its own")
