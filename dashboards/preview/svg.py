"""Drawing: escaped text, boxes and lines as SVG, and the colours and sizes that all panels share. Units are pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from xml.sax.saxutils import escape, quoteattr

PAGE: Final = "#0f1116"
CARD: Final = "#181b21"
EDGE: Final = "#272b33"
GRID: Final = "#262a31"
TEXT: Final = "#d7dae0"
DIM: Final = "#8d93a0"
FONT: Final = "'Inter','DejaVu Sans','Segoe UI',Helvetica,Arial,sans-serif"
_CHARACTER: Final = 0.6
"""Mean width of a character as a share of the font's size; on the safe side for mixed text."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def inset(self, left: float, top: float, right: float, bottom: float) -> Box:
        return replace(self, x=self.x + left, y=self.y + top, width=self.width - left - right, height=self.height - top - bottom)


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: float = 12,
    fill: str = TEXT,
    anchor: str = "start",
    bold: bool = False,
    room: float | None = None,
) -> str:
    """Return one line of text with its baseline at `y`; longer than `room` it is shortened and its whole is the tooltip."""
    shown = content if room is None else shorten(content, size, room)
    weight = ' font-weight="600"' if bold else ""
    tip = f"<title>{escape(content)}</title>" if shown != content else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill={quoteattr(fill)} text-anchor="{anchor}"{weight}'
    return f"<text {place}>{tip}{escape(shown)}</text>"


def shorten(content: str, size: float, room: float) -> str:
    """Return the text, cut with an ellipsis where it would be wider than `room`."""
    fits = int(room / (size * _CHARACTER))
    return content if len(content) <= fits else content[: max(1, fits - 1)].rstrip() + "…"


def width_of(content: str, size: float) -> float:
    """Return about how wide a text is."""
    return len(content) * size * _CHARACTER


def rect(box: Box, fill: str, *, radius: float = 0, stroke: str = "", opacity: float = 1) -> str:
    edge = f' stroke="{stroke}"' if stroke else ""
    return (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{max(0.0, box.width):.1f}" height="{max(0.0, box.height):.1f}" '
        f'rx="{radius:g}" fill="{fill}" fill-opacity="{opacity:g}"{edge}/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, *, dashes: str = "", width: float = 1) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width:g}"{dashed}/>'


def polyline(points: Sequence[tuple[float, float]], stroke: str, width: float = 1.5) -> str:
    # A single point has no line: a dot shows that it is there.
    if len(points) == 1:
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="{width:g}" fill="{stroke}"/>'
    return f'<polyline points="{_pairs(points)}" fill="none" stroke="{stroke}" stroke-width="{width:g}" stroke-linejoin="round"/>'


def polygon(points: Sequence[tuple[float, float]], fill: str, opacity: float) -> str:
    return f'<polygon points="{_pairs(points)}" fill="{fill}" fill-opacity="{opacity:g}"/>'


def document(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return a whole SVG file."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="{FONT}">\n<title>{escape(title)}</title>\n{rect(Box(0, 0, width, height), PAGE)}\n{body}\n</svg>\n'
    )


def _pairs(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
