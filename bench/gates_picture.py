"""`python -m bench.gates_picture`: draws docs/images/gates.svg from a report of `python -m bench.gates`.

Left, healthy rollouts that the gate rolled back beside those that a threshold on five minutes rolled back; right, how long
the gate took to find harm. The rows that were drawn are kept beside the picture, so that it can be drawn again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from bench.rows import Row, report, write

_ROOT: Final = Path(__file__).resolve().parent.parent
# Where bench.gates writes; named again because that module needs numpy, and a picture needs none.
REPORT: Final = _ROOT / "build" / "bench" / "gates.json"
PICTURE: Final = _ROOT / "docs" / "images" / "gates.svg"

_HEALTHY = re.compile(r"A/A (?P<base>[\d.]+%), (?P<rate>\d+) rps, icc 0")
_PEER = re.compile(r"peer: 5-min threshold, A/A (?P<base>[\d.]+%), (?P<rate>\d+) rps")
_HARM = re.compile(r"\+(?P<points>\d+) points on (?P<base>[\d.]+%), (?P<rate>\d+) rps, icc (?P<icc>[\d.]+), (?P<within>\d+) min")
_MEDIAN = re.compile(r"median look ([\d.]+)")

_INK, _PALE, _OURS, _THEIRS = "#1f2933", "#6b7785", "#1f77b4", "#d1603d"
_LINE: Final = 24
_TOP: Final = 84
_WIDTH: Final = 1100
_LEFT_BARS, _LEFT_WIDTH = 150, 250
_RIGHT, _RIGHT_BARS, _RIGHT_WIDTH = 510, 765, 180
_LONGEST_MIN: Final = 30.0


@dataclass(frozen=True, slots=True)
class Healthy:
    """One kind of healthy traffic: the share of rollouts that were rolled back by the gate and by usual practice, in percent."""

    traffic: str
    gate: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Harm:
    """One kind of harm: the share that was found, in percent, and the median minute of those that were."""

    what: str
    median_min: float | None
    found: float
    within_min: int
    budget: float | None


class NothingToDraw(ValueError):
    """A report without the rows of one of the two halves."""


def healthy(rows: list[Row]) -> list[Healthy]:
    """Return the kinds of traffic that both rules were tried on, in the report's order."""
    gates = {match.groups(): row.value for row in rows if (match := _HEALTHY.fullmatch(row.name)) and row.value is not None}
    return [
        Healthy(f"{_percent(match['base'])} fail, {match['rate']} rps", gates[match.groups()], row.value)
        for row in rows
        if (match := _PEER.fullmatch(row.name)) and row.value is not None and match.groups() in gates
    ]


def harms(rows: list[Row]) -> list[Harm]:
    """Return the kinds of harm in errors."""
    found = []
    for row in rows:
        match = _HARM.fullmatch(row.name)
        if match is None or row.value is None:
            continue
        bursts = "" if match["icc"] == "0" else ", bursts"
        median = _MEDIAN.search(row.note)
        what = f"+{match['points']} points on {_percent(match['base'])}, {match['rate']} rps{bursts}"
        found.append(Harm(what, float(median[1]) if median else None, row.value, int(match["within"]), row.budget))
    return found


def draw(rows: list[Row]) -> str:
    """Return the picture as SVG.

    Raises:
        NothingToDraw: the report lacks the rows of one half.
    """
    left, right = healthy(rows), harms(rows)
    if not left or not right:
        raise NothingToDraw("the report has no healthy traffic with a peer, or no harm: run python -m bench.gates without --only")
    height = _TOP + max(2 * _LINE * len(left) + 60, _LINE * len(right)) + 16
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif" font-size="13" role="img">',
        "<title>How often the gate errs, and how fast it finds harm</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        *_false_rollbacks(left),
        *_time_to_find(right),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _false_rollbacks(left: list[Healthy]) -> list[str]:
    parts = [
        _text(20, 30, "Healthy rollouts that are rolled back", size=16, bold=True),
        _text(20, 52, "80 looks by the gate, 60 by the threshold; at most 5 % may be (dashed)", fill=_PALE),
    ]
    y, limit = _TOP, _LEFT_BARS + _LEFT_WIDTH * 0.05
    for each in left:
        parts.append(_text(20, y + _LINE - 2, each.traffic))
        for value, fill in ((each.gate, _OURS), (each.threshold, _THEIRS)):
            parts += _bar(_LEFT_BARS, y, _LEFT_WIDTH * value / 100, fill, f"{value:.1f} %", told_from=limit)
            y += _LINE - 5
        y += 10
    parts.append(f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="{_TOP - 6}" y2="{y - 6}" stroke="{_INK}" stroke-dasharray="3 3"/>')
    for number, (fill, what) in enumerate(((_OURS, "this gate"), (_THEIRS, "1 point more over the last five minutes"))):
        parts += _bar(20, y + 6 + 20 * number, 14, fill, what)
    return parts


def _time_to_find(right: list[Harm]) -> list[str]:
    parts = [
        _text(_RIGHT, 30, "Minutes until the gate finds harm", size=16, bold=True),
        _text(_RIGHT, 52, "median of what was found, 10 % of users having the flag; then the share found", fill=_PALE),
    ]
    for number, each in enumerate(right):
        y = _TOP + _LINE * number
        parts.append(_text(_RIGHT, y + 13, each.what))
        share = f"{each.found:.1f} % in {each.within_min}"
        missed = each.budget is not None and each.found < each.budget
        told = "not found" if each.median_min is None else f"{each.median_min:g} min; {share}"
        width = _RIGHT_WIDTH * min(1.0, (each.median_min or 0.0) / _LONGEST_MIN)
        parts += _bar(_RIGHT_BARS, y, width, _OURS, told + (f", asked {each.budget:g} %" if missed else ""), _THEIRS if missed else _INK)
    return parts


def _bar(x: float, y: float, width: float, fill: str, told: str, ink: str = _INK, *, told_from: float = 0.0) -> list[str]:
    bar = f'<rect x="{x}" y="{y}" width="{max(1.0, width):.1f}" height="16" fill="{fill}"/>'
    return [bar, _text(max(told_from, x + max(1.0, width)) + 6, y + 13, told, fill=ink)]


def _text(x: float, y: float, text: str, *, fill: str = _INK, size: int = 13, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" fill="{fill}" font-size="{size}"{weight}>{escape(text)}</text>'


def _percent(text: str) -> str:
    return text.replace("%", " %")


def _is_drawn(row: Row) -> bool:
    return any(pattern.fullmatch(row.name) for pattern in (_HEALTHY, _PEER, _HARM))


def main(arguments: list[str] | None = None) -> int:
    """Draw; return 0, or 2 when there is no report or nothing in it to draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.gates_picture", description="Draw what python -m bench.gates has measured.")
    parser.add_argument("report", nargs="?", type=Path, default=REPORT, help="a report (default: build/bench/gates.json)")
    parser.add_argument("--output", type=Path, default=PICTURE, help="the picture (default: docs/images/gates.svg); its rows go to .json")
    chosen = parser.parse_args(arguments)
    try:
        rows = [row for row in map(Row.from_json, json.loads(chosen.report.read_text(encoding="utf-8"))["rows"]) if _is_drawn(row)]
        picture = draw(rows)
    except (OSError, ValueError, KeyError) as error:
        print(f"gates_picture: {chosen.report}: {error}", file=sys.stderr)
        return 2
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(picture, encoding="utf-8")
    write(chosen.output.with_suffix(".json"), report("gates", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
