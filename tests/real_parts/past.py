"""A real Prometheus with a past: minutes that are over, written as blocks before it starts."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.real_parts.processes import binary
from tests.real_parts.prometheus import Prometheus, prometheus
from tests.real_parts.promtool import series

TICKS = 4
"""Samples a minute."""


def hours_ago(hours: int = 3) -> int:
    """Return a whole hour in the past, in seconds: Prometheus refuses samples of the future."""
    return (int(datetime.now(UTC).timestamp()) // 3600 - hours) * 3600


class Past:
    """Series with a sample each 15 s, from two minutes before `start` (a whole minute, in seconds since 1970) on."""

    def __init__(self, start: int, minutes: int) -> None:
        self.start, self.minutes = start, minutes
        self._samples: dict[str, list[str]] = {}

    def counter(self, name: str, labels: Mapping[str, str], per_minute: int | Sequence[float] = 0) -> None:
        """Add a counter that begins at 0 and grows steadily within each minute by so much; NaN is NaN from there on."""
        growth = [per_minute] * self.minutes if isinstance(per_minute, int) else per_minute
        value = 0.0
        for tick in range(-2 * TICKS, self.minutes * TICKS + 1):
            value += growth[(tick - 1) // TICKS] / TICKS if tick > 0 else 0
            self._add(name, labels, tick, value)

    def gauge(self, name: str, labels: Mapping[str, str], value: float) -> None:
        for tick in range(-2 * TICKS, self.minutes * TICKS + 1):
            self._add(name, labels, tick, value)

    def text(self) -> str:
        """Return everything as OpenMetrics."""
        return "".join(line for lines in self._samples.values() for line in lines) + "# EOF\n"

    def _add(self, name: str, labels: Mapping[str, str], tick: int, value: float) -> None:
        shown = "NaN" if value != value else f"{value:.12g}"
        self._samples.setdefault(name, []).append(f"{series(name, dict(labels))} {shown} {self.start + tick * 60 // TICKS}\n")


@contextlib.contextmanager
def prometheus_with(folder: Path, openmetrics: str, flags: Sequence[str] = ()) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes nothing and has this past until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "past.om").write_text(openmetrics)
    command = [binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(folder / "past.om"), str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with prometheus(folder, "global: {scrape_interval: 15s}\n", flags=flags) as server:
        yield server
