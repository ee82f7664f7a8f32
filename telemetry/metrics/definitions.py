"""Definitions: which cell of a worker's file is which series, as lines of JSON that are only ever appended.

Three kinds of lines: a header, one line per metric family, one per series. A line counts once its newline is there, so
a worker killed in the middle of a write leaves at most one line that readers never see. An archive (the counts of dead
workers) is the same format with the values written into the series lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from isolation_monitor.telemetry.names import Metric

FORMAT: Final = "cells/1"

SeriesKey = tuple[str, tuple[str, ...]]
"""A series: the metric's name and the label values in the order of the family's label names."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family as it crosses from one worker to another. `caps` holds each label's cap, None for a closed set."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    endpoint: Literal["isolation", "main"]
    label_names: tuple[str, ...]
    caps: tuple[int | None, ...]
    buckets: tuple[float, ...] = ()

    @classmethod
    def of(cls, metric: Metric) -> Family:
        """Return the family of a catalogue entry."""
        caps = tuple(cap if isinstance(cap, int) else None for cap in metric.labels.values())
        return cls(metric.name, metric.type, metric.help, metric.endpoint, tuple(metric.labels), caps, tuple(map(float, metric.buckets)))

    @property
    def width(self) -> int:
        """Doubles per lane: 1, or for a histogram one per bucket, one for +Inf and one for the sum."""
        return len(self.buckets) + 2 if self.type == "histogram" else 1

    @property
    def lines(self) -> int:
        """Exposed samples per series, which is what Prometheus calls series."""
        return len(self.buckets) + 3 if self.type == "histogram" else 1

    def merges_with(self, other: Family) -> bool:
        """Whether the two mean the same numbers, so that they can be added. Help text and caps may differ between versions."""
        return (self.type, self.label_names, self.buckets) == (other.type, other.label_names, other.buckets)


def header_line(**facts: object) -> bytes:
    """The first line: the format, and facts about who wrote it."""
    return _line({"format": FORMAT, **facts})


def family_line(number: int, family: Family) -> bytes:
    """Declare `family` under `number`, by which series lines name it."""
    return _line(
        {
            "family": number,
            "name": family.name,
            "type": family.type,
            "help": family.help,
            "endpoint": family.endpoint,
            "labels": family.label_names,
            "caps": family.caps,
            "buckets": family.buckets,
        }
    )


def series_line(family: int, values: tuple[str, ...], position: int) -> bytes:
    """Declare a series whose lane 0 starts at `position` of the cells file."""
    return _line({"of": family, "values": values, "at": position})


def archive_line(family: int, values: tuple[str, ...], totals: list[float]) -> bytes:
    """Declare a series of an archive, with its numbers."""
    return _line({"of": family, "values": values, "totals": totals})


@dataclass(slots=True)
class Definitions:
    """What the lines read so far declare."""

    header: dict[str, Any] = field(default_factory=dict)  # Any: JSON of another process
    families: dict[str, Family] = field(default_factory=dict)
    positions: dict[SeriesKey, int] = field(default_factory=dict)
    totals: dict[SeriesKey, list[float]] = field(default_factory=dict)
    per_family: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    _numbers: dict[int, Family] = field(default_factory=dict)
    _end: int = 0

    def feed(self, lines: Iterable[bytes]) -> Iterator[None]:
        """Take complete lines; yields after each 50 so that a caller can let other threads run. Unknown lines are skipped."""
        for count, line in enumerate(lines, 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                # Written by a later version, or damaged by a full disk: what can be read is still worth showing.
                continue
            if count % 50 == 0:
                yield

    def _take(self, entry: dict[str, Any]) -> None:
        if "of" in entry:
            family = self._numbers[entry["of"]]
            key = (family.name, tuple(map(str, entry["values"])))
            if len(key[1]) != len(family.label_names):
                raise ValueError(f"{len(key[1])} values for the labels {family.label_names}")
            if "totals" in entry:
                self.totals[key] = [float(value) for value in entry["totals"]]
            else:
                self._place(key, int(entry["at"]), 2 * family.width)
            self.per_family.setdefault(family.name, []).append(key[1])
        elif "family" in entry:
            family = Family(
                entry["name"],
                entry["type"],
                entry["help"],
                entry["endpoint"],
                tuple(entry["labels"]),
                tuple(entry["caps"]),
                tuple(entry["buckets"]),
            )
            self._numbers[int(entry["family"])] = family
            self.families[family.name] = family
        elif entry.get("format") == FORMAT:
            self.header = entry

    def _place(self, key: SeriesKey, position: int, width: int) -> None:
        # Readers rely on the newest series being the last in the file.
        if key in self.positions or position < self._end:
            raise ValueError(f"a series at {position}, before the end {self._end} of the ones known")
        self.positions[key] = position
        self._end = position + width


def _line(entry: dict[str, object]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
