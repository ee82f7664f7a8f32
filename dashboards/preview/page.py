"""A whole dashboard as one SVG, on the dashboard's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from xml.sax.saxutils import quoteattr

from isolation_monitor.dashboards.preview import charts, formats, svg, tiles
from isolation_monitor.dashboards.preview.board import Board, Panel, Target
from isolation_monitor.dashboards.preview.charts import Line
from isolation_monitor.dashboards.preview.prometheus import Prometheus, Series, Window
from isolation_monitor.dashboards.preview.svg import Box

WIDTH: Final = 1680
_MARGIN: Final = 20
_HEADER: Final = 76
_GAP: Final = 8
_UNIT: Final = 36
_TITLE: Final = 30
_COLUMNS: Final = 24

Answers = Mapping[str, Sequence[Series]]
"""What a panel's queries returned, by the query's letter."""


def ask(board: Board, prometheus: Prometheus, window: Window) -> dict[str, Answers]:
    """Return the answers to every query of a board, by panel title and place.

    Raises:
        QueryError: Prometheus refused a query or did not answer.
    """
    return {key(panel): {target.ref: answer(target, prometheus, window) for target in panel.targets} for panel in board.panels}


def answer(target: Target, prometheus: Prometheus, window: Window) -> list[Series]:
    """Return the answer to one query.

    Raises:
        QueryError: Prometheus refused it or did not answer.
    """
    return (prometheus.now if target.is_instant else prometheus.over)(target.expr, window)


def key(panel: Panel) -> str:
    """Return what tells panels of a board apart: titles may repeat."""
    return f"{panel.title} @{panel.x},{panel.y}"


def draw(board: Board, answers: Mapping[str, Answers], window: Window) -> str:
    """Return the SVG. Panels without an answer show their own words for it."""
    lines = max(panel.y + panel.height for panel in board.panels)
    height = _HEADER + lines * _UNIT + _MARGIN
    parts = [*_header(board, window)]
    for row in board.rows:
        y = _HEADER + row.y * _UNIT + 24
        parts.append(svg.text(_MARGIN + 4, y, row.title, size=15, bold=True))
    for panel in board.panels:
        parts += _panel(panel, answers[key(panel)], window)
    return svg.document(WIDTH, height, board.title, parts)


def _header(board: Board, window: Window) -> Iterator[str]:
    yield svg.text(_MARGIN + 4, 36, board.title, size=22, bold=True)
    yield svg.text(_MARGIN + 4, 60, board.description, size=12.5, fill=svg.DIM, room=WIDTH - 2 * _MARGIN)
    start, end = (datetime.fromtimestamp(at, UTC) for at in (window.start_s, window.end_s))
    span = f"{start:%Y-%m-%d %H:%M:%S} – {end:%H:%M:%S} UTC"
    yield svg.text(WIDTH - _MARGIN - 4, 36, span, size=12.5, fill=svg.DIM, anchor="end")


def _panel(panel: Panel, answers: Answers, window: Window) -> Iterator[str]:
    column = (WIDTH - 2 * _MARGIN) / _COLUMNS
    card = Box(
        _MARGIN + panel.x * column + _GAP / 2,
        _HEADER + panel.y * _UNIT + _GAP / 2,
        panel.width * column - _GAP,
        panel.height * _UNIT - _GAP,
    )
    first = answers[panel.targets[0].ref]
    solid = tiles.background(panel, first)
    yield f"<g data-panel={quoteattr(panel.title)}>"
    yield svg.rect(card, solid or svg.CARD, radius=6, stroke=svg.EDGE)
    yield svg.text(card.x + 12, card.y + 21, panel.title, size=12.5, fill=svg.PAGE if solid else svg.TEXT, room=card.width - 20)
    inside = card.inset(4, _TITLE, 4, 4)
    if panel.kind == "stat":
        yield from tiles.number(panel, first, window, inside)
    elif panel.kind == "table":
        if any(answers.values()):
            yield from tiles.table(panel, answers, inside)
        else:
            yield _empty(panel, inside)
    else:
        found = _lines(panel, answers)
        if not found:
            yield _empty(panel, inside)
        elif panel.kind == "state-timeline":
            yield from charts.bands(panel, found, window, inside)
        else:
            yield from charts.graph(panel, found, window, inside)
    yield "</g>"


def _lines(panel: Panel, answers: Answers) -> list[Line]:
    found: list[Line] = []
    for target in panel.targets:
        for series in sorted(answers[target.ref], key=lambda one: sorted(one.labels.items())):
            name = formats.legend(target.legend, series.labels)
            color = formats.color(panel.colors[name]) if name in panel.colors else formats.PALETTE[len(found) % len(formats.PALETTE)]
            found.append(Line(name, dict(series.points), color))
    return found


def _empty(panel: Panel, box: Box) -> str:
    return svg.text(box.x + box.width / 2, box.y + box.height / 2, panel.no_value, size=15, fill=svg.DIM, anchor="middle")
