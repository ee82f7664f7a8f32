"""Merging: one set of numbers out of all workers' cells.

Counters and histograms of the living and the dead are added. Gauges are of living workers only, added too, but for those
in `GAUGE_MERGE`. Which cell of which worker goes where is worked out when series appear, not at each scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import add, itemgetter
from typing import Final, Literal

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics.definitions import Family
from isolation_monitor.telemetry.metrics.pacing import Pacer
from isolation_monitor.telemetry.metrics.sources import Source

GAUGE_MERGE: Final[dict[str, Literal["sum", "max", "min"]]] = {
    names.MONITOR_LAST_CHECK.name: "max",
    names.MONITOR_INFO.name: "max",
    names.DB_CONNECTION_MAX.name: "sum",
    names.DETECTOR_POWER.name: "min",
    names.QUEUE_EVENTS_MAX.name: "max",
    names.QUEUE_BYTES_MAX.name: "max",
    names.QUEUE_AGE_MAX.name: "max",
    names.STARTUP_DURATION.name: "max",
    names.STARTUP_READY.name: "max",
}
"""How a gauge of several workers becomes one number, where it is not the sum or worth saying that it is."""

_COMBINE: Final[dict[str, Callable[[float, float], float]]] = {"sum": add, "max": max, "min": min}
_CHUNK_CELLS: Final = 256

Snapshots = dict[int, list[float]]
"""The doubles of each source by its serial, with a zero at the end for series that the source does not have."""

_Gather = Callable[[list[float]], tuple[float, ...]]


@dataclass(slots=True)
class Chunk:
    """Some series of a family, in order, and where their numbers are."""

    family: Family
    keys: Sequence[tuple[str, ...]]
    gathers: list[tuple[Source, _Gather, _Gather]]
    prefixes: dict[bool, list[str]] = field(default_factory=dict)
    """Text before each value, by format; kept by the renderer."""

    def totals(self, snapshots: Snapshots) -> list[float]:
        """The merged numbers, `family.width` for each key."""
        merge = GAUGE_MERGE.get(self.family.name, "sum") if self.family.type == "gauge" else "sum"
        combine = _COMBINE[merge]
        result: list[float] | None = None
        for source, lane0, lane1 in self.gathers:
            if self.family.type == "gauge" and not source.is_live:
                continue
            doubles = snapshots[source.serial]
            both = map(add, lane0(doubles), lane1(doubles))
            result = list(both) if result is None else list(map(combine, result, both))
        if result is None:
            return [0.0] * (len(self.keys) * self.family.width)
        result.pop()
        return result


class Merger:
    """The families of all sources, as chunks. Not safe for several threads at once: the registry serialises scrapes."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[tuple[tuple[int, int], ...], list[Chunk]]] = {}

    def families(self, sources: Sequence[Source]) -> list[Family]:
        """All families in order of first appearance; of two that cannot be added the first is meant."""
        found: dict[str, Family] = {}
        for source in sources:
            for name, family in list(source.families.items()):
                found.setdefault(name, family)
        return list(found.values())

    def chunks(self, family: Family, sources: Sequence[Source], pause: Pacer) -> Iterator[Chunk]:
        """Yield the chunks of `family`; rebuilt only when a source came, went or got a new series."""
        signature = tuple((source.serial, len(source.per_family.get(family.name, ()))) for source in sources)
        known_signature, known = self._tables.get(family.name, ((), []))
        if known_signature == signature:
            yield from known
            return
        built: list[Chunk] = []
        for number, chunk in enumerate(_build(family, sources, pause)):
            # Series are only added, so the chunks but the last mostly hold what they held.
            if number < len(known) and known[number].keys == chunk.keys:
                chunk.prefixes = known[number].prefixes
            built.append(chunk)
            yield chunk
        self._tables[family.name] = (signature, built)


def _build(family: Family, sources: Sequence[Source], pause: Pacer) -> Iterator[Chunk]:
    fitting = [source for source in sources if family.name in source.families and family.merges_with(source.families[family.name])]
    # Copies, as other threads may be adding; they hold what the signature saw, or more.
    listed = [list(source.per_family.get(family.name, ())) for source in fitting]
    keys = listed[0] if len(listed) == 1 else _union(listed, pause)
    size = max(1, _CHUNK_CELLS // family.width)
    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        yield Chunk(family, part, list(_gathers(family, part, fitting, pause)))


def _union(listed: list[list[tuple[str, ...]]], pause: Pacer) -> list[tuple[str, ...]]:
    union: dict[tuple[str, ...], None] = {}
    for series in listed:
        for start in range(0, len(series), _CHUNK_CELLS):
            union.update(dict.fromkeys(series[start : start + _CHUNK_CELLS]))
            pause()
    return list(union)


def _gathers(
    family: Family, keys: Sequence[tuple[str, ...]], sources: Sequence[Source], pause: Pacer
) -> Iterator[tuple[Source, _Gather, _Gather]]:
    width = family.width
    for source in sources:
        pause()
        places = [source.positions.get((family.name, values)) for values in keys]
        if all(place is None for place in places):
            continue
        lanes: tuple[list[int], list[int]] = ([], [])
        for place in places:
            for lane, indices in enumerate(lanes):
                indices.extend([-1] * width if place is None else range(place + lane * width, place + (lane + 1) * width))
        # The index at the end keeps itemgetter's answer a tuple even for a single series.
        yield source, itemgetter(*lanes[0], -1), itemgetter(*lanes[1], -1)
