"""Big numbers and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from isolation_monitor.dashboards.preview import charts, formats, svg
from isolation_monitor.dashboards.preview.board import Column, Panel
from isolation_monitor.dashboards.preview.prometheus import Series, Window
from isolation_monitor.dashboards.preview.svg import Box

_ROW = 24


def background(panel: Panel, series: Sequence[Series]) -> str | None:
    """Return the colour of a whole tile whose value is shown as words, or None."""
    if panel.kind != "stat" or not panel.words or not series:
        return None
    word = panel.words.get(series[0].last)
    return formats.color(word[1]) if word else None


def number(panel: Panel, series: Sequence[Series], window: Window, box: Box) -> Iterator[str]:
    """Draw the last value of the first series, with its trend behind it where the panel asks for one."""
    if not series:
        yield _big(panel.no_value, svg.DIM, box)
        return
    value = series[0].last
    if value in panel.words:
        yield _big(panel.words[value][0], svg.PAGE, box)
        return
    color = formats.step_color(value, panel.steps)
    if panel.is_filled:
        yield from charts.spark(
            dict(series[0].points), color, Box(box.x, box.bottom - box.height * 0.42, box.width, box.height * 0.42), window
        )
    yield _big(formats.number(value, panel.unit, panel.decimals), color, box)


def table(panel: Panel, values: Mapping[str, Sequence[Series]], box: Box) -> Iterator[str]:
    """Draw a table: rows with the same labels join, as Grafana's merge does."""
    wanted = [column.label for column in panel.columns if column.label is not None]
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for ref, series in values.items():
        for one in series:
            key = tuple(one.labels.get(label, "") for label in wanted)
            rows.setdefault(key, {})[ref] = one.last
    widths = _widths(panel.columns, box.width - 16)
    x = box.x + 8
    for column, width in zip(panel.columns, widths, strict=True):
        yield svg.text(x, box.y + 16, column.header, size=11, fill=svg.DIM, bold=True, room=width - 6)
        x += width
    yield svg.line(box.x + 8, box.y + 23, box.right - 8, box.y + 23, svg.EDGE)
    fits = int((box.height - 26) // _ROW)
    for place, (key, found) in enumerate(sorted(rows.items())[:fits]):
        labels, x, y = dict(zip(wanted, key, strict=True)), box.x + 8, box.y + 23 + _ROW * (place + 1) - 7
        for column, width in zip(panel.columns, widths, strict=True):
            shown, color = _cell(column, labels, found)
            yield svg.text(x, y, shown, size=12, fill=color, room=width - 6)
            x += width
    if len(rows) > fits:
        yield svg.text(box.right - 8, box.bottom - 4, f"+{len(rows) - fits} more", size=10, fill=svg.DIM, anchor="end")


def _cell(column: Column, labels: Mapping[str, str], found: Mapping[str, float]) -> tuple[str, str]:
    if column.label is not None:
        return labels[column.label], svg.TEXT
    value = found.get(column.ref or "")
    if value is None:
        return "", svg.DIM
    return formats.number(value, column.unit, column.decimals), formats.step_color(value, column.steps, svg.TEXT)


def _widths(columns: Sequence[Column], room: float) -> list[float]:
    fixed = sum(column.width or 0 for column in columns)
    free = [column for column in columns if not column.width]
    share = max(40.0, (room - fixed) / len(free)) if free else 0.0
    return [column.width or share for column in columns]


def _big(content: str, fill: str, box: Box) -> str:
    size = min(box.height * 0.42, (box.width - 20) / (max(1, len(content)) * 0.62), 46.0)
    return svg.text(
        box.x + box.width / 2, box.y + box.height / 2 + size * 0.28, content, size=round(size, 1), fill=fill, anchor="middle", bold=True
    )
