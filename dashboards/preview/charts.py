"""Graphs over time: lines, stacked areas, bars, and bands of states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from isolation_monitor.dashboards.preview import formats, svg
from isolation_monitor.dashboards.preview.board import Panel
from isolation_monitor.dashboards.preview.prometheus import Window
from isolation_monitor.dashboards.preview.svg import Box

_LEGEND_LINE: Final = 16
_MOST_LEGEND_LINES: Final = 3
_MOST_FILLED: Final = 2


@dataclass(frozen=True, slots=True)
class Line:
    """One named series: values by time (unix seconds)."""

    name: str
    points: Mapping[float, float]
    color: str

    @property
    def last(self) -> float:
        return self.points[max(self.points)]


def graph(panel: Panel, lines: Sequence[Line], window: Window, box: Box) -> Iterator[str]:
    """Draw a panel of lines, areas or bars with its axes and legend."""
    legend = list(_legend(panel, lines, box))
    axis_room = 58
    plot = box.inset(axis_room, 6, 8, 22 + _LEGEND_LINE * len(legend))
    stacks = _stacks(lines) if panel.is_stacked else [line.points for line in lines]
    low, high = _bounds(panel, stacks)

    def at(time_s: float, value: float) -> tuple[float, float]:
        share = (min(max(value, low), high) - low) / (high - low)
        return plot.x + plot.width * (time_s - window.start_s) / (window.end_s - window.start_s), plot.bottom - plot.height * share

    yield from _axes(panel, window, plot, low, high)
    below: Mapping[float, float] = {}
    for line, tops in zip(lines, stacks, strict=True):
        floor = below if panel.is_stacked else {}
        for run in _runs(tops, window.step_s):
            points = [at(time_s, value) for time_s, value in run]
            # Many fills over each other turn to mud.
            if len(points) > 1 and (panel.is_stacked or len(lines) <= _MOST_FILLED):
                back = [at(time_s, floor.get(time_s, low)) for time_s, _ in reversed(run)]
                yield svg.polygon(points + back, line.color, 0.35 if panel.is_stacked else 0.07)
            yield svg.polyline(points, line.color)
        below = tops
    yield from (part for row in legend for part in row)


def bands(panel: Panel, lines: Sequence[Line], window: Window, box: Box) -> Iterator[str]:
    """Draw one band for each series, coloured and named by what its values mean."""
    name_room = min(150.0, max(svg.width_of(line.name, 11) for line in lines) + 10)
    plot = box.inset(name_room, 4, 8, 22)
    height = min(34.0, plot.height / len(lines))
    step = plot.width * window.step_s / (window.end_s - window.start_s)
    for number, line in enumerate(lines):
        y = plot.y + number * height
        yield svg.text(plot.x - 8, y + height / 2 + 4, line.name, size=11, fill=svg.DIM, anchor="end", room=name_room)
        for run in _runs(line.points, window.step_s):
            for value, first_s, last_s in _same(run):
                x = plot.x + plot.width * (first_s - window.start_s) / (window.end_s - window.start_s)
                band = Box(
                    x, y + 3, min(plot.width * (last_s - first_s) / (window.end_s - window.start_s) + step, plot.right - x), height - 6
                )
                word, color = panel.words.get(value, (formats.number(value, panel.unit), "blue"))
                yield svg.rect(band, formats.color(color), radius=2, opacity=0.8)
                if band.width > svg.width_of(word, 11) + 6:
                    yield svg.text(band.x + 6, band.y + band.height / 2 + 4, word, size=11, fill="#0f1116", bold=True)
    yield from _time_axis(window, plot)


def spark(points: Mapping[float, float], color: str, box: Box, window: Window) -> Iterator[str]:
    """Draw a small area without axes."""
    low, high = min(points.values()), max(points.values())
    # A flat line lies in the middle instead of dividing by nothing.
    low, high = (low - 1, high + 1) if high - low < 1e-9 else (low - 0.1 * (high - low), high)
    for run in _runs(points, window.step_s):
        drawn = [
            (
                box.x + box.width * (time_s - window.start_s) / (window.end_s - window.start_s),
                box.bottom - box.height * (value - low) / (high - low),
            )
            for time_s, value in run
        ]
        if len(drawn) > 1:
            yield svg.polygon([*drawn, (drawn[-1][0], box.bottom), (drawn[0][0], box.bottom)], color, 0.16)
        yield svg.polyline(drawn, color, 1.2)


def _stacks(lines: Sequence[Line]) -> list[dict[float, float]]:
    """Return each line's upper edge; at times where a line has no value it has no edge and adds nothing."""
    sums: dict[float, float] = {}
    found = []
    for line in lines:
        top = {}
        for time_s, value in line.points.items():
            sums[time_s] = top[time_s] = sums.get(time_s, 0.0) + value
        found.append(top)
    return found


def _bounds(panel: Panel, stacks: Sequence[Mapping[float, float]]) -> tuple[float, float]:
    values = [value for points in stacks for value in points.values()]
    marks = [start for start, _ in panel.steps if start is not None] if panel.shows_steps else []
    low = panel.minimum if panel.minimum is not None else min(values)
    # A threshold far above the data would flatten it; near ones belong into the picture.
    high = max(values)
    high = max([high, *(mark for mark in marks if mark <= max(high * 4, 1e-9) or high <= low)])
    if panel.maximum is not None:
        high = panel.maximum
        low = min(low, *(mark for mark in marks), high - 1e-9) if panel.minimum is None else low
    if high - low < 1e-6:
        high, low = (high, low - max(1.0, abs(high) * 0.1)) if panel.maximum is not None else (high + max(1.0, abs(high) * 0.1), low)
    return low, high if panel.maximum is not None else high + (high - low) * 0.06


def _axes(panel: Panel, window: Window, plot: Box, low: float, high: float) -> Iterator[str]:
    for value in formats.ticks(low, high, panel.unit):
        y = plot.bottom - plot.height * (value - low) / (high - low)
        yield svg.line(plot.x, y, plot.right, y, svg.GRID)
        yield svg.text(plot.x - 6, y + 4, formats.number(value, panel.unit), size=10, fill=svg.DIM, anchor="end")
    yield from _time_axis(window, plot)
    if panel.shows_steps:
        for start, color in panel.steps:
            if start is not None and low <= start <= high:
                y = plot.bottom - plot.height * (start - low) / (high - low)
                yield svg.line(plot.x, y, plot.right, y, formats.color(color), dashes="5 4")


def _time_axis(window: Window, plot: Box) -> Iterator[str]:
    length = window.end_s - window.start_s
    form = "%H:%M:%S" if length < 900 else "%H:%M" if length <= 86_400 else "%d %b"
    for number in range(4):
        time_s = window.start_s + length * (number + 0.5) / 4
        x = plot.x + plot.width * (number + 0.5) / 4
        yield svg.text(x, plot.bottom + 15, datetime.fromtimestamp(time_s, UTC).strftime(form), size=10, fill=svg.DIM, anchor="middle")


def _legend(panel: Panel, lines: Sequence[Line], box: Box) -> Iterator[list[str]]:
    """Return the legend, line by line; what does not fit is counted."""
    rows: list[list[tuple[Line, str]]] = [[]]
    used = 0.0
    for line in lines:
        label = f"{line.name}  {formats.number(line.last, panel.unit, panel.decimals)}"
        room = svg.width_of(label, 10.5) + 26
        if used + room > box.width - 8 and rows[-1]:
            rows.append([])
            used = 0.0
        rows[-1].append((line, label))
        used += room
    shown = rows[:_MOST_LEGEND_LINES]
    hidden = sum(len(row) for row in rows[_MOST_LEGEND_LINES:])
    for number, row in enumerate(shown):
        y = box.bottom - 6 - _LEGEND_LINE * (len(shown) - 1 - number)
        x = box.x + 6
        drawn = []
        for line, label in row:
            drawn += [
                svg.rect(Box(x, y - 6, 10, 3), line.color, radius=1.5),
                svg.text(x + 14, y, label, size=10.5, fill=svg.DIM, room=box.width - 30),
            ]
            x += svg.width_of(label, 10.5) + 26
        if hidden and number == len(shown) - 1:
            drawn.append(svg.text(box.right - 6, y, f"+{hidden}", size=10.5, fill=svg.DIM, anchor="end"))
        yield drawn


def _runs(points: Mapping[float, float], step_s: float) -> Iterator[list[tuple[float, float]]]:
    """Split the points where one or more are missing: no data is not a line."""
    run: list[tuple[float, float]] = []
    for time_s, value in sorted(points.items()):
        if run and time_s - run[-1][0] > 1.5 * step_s:
            yield run
            run = []
        run.append((time_s, value))
    if run:
        yield run


def _same(run: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float, float]]:
    """Return (value, first time, last time) of each stretch of equal values."""
    value, first = run[0][1], run[0][0]
    last = first
    for time_s, now in run[1:]:
        if now != value:
            yield value, first, time_s
            value, first = now, time_s
        last = time_s
    yield value, first, last
