"""The picture of what the gates' simulation measured: drawn from a report, and the committed one is what its rows say."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.gates_picture import PICTURE, Harm, NothingToDraw, draw, harms, healthy
from bench.rows import Row, report

ROOT = Path(__file__).parents[2]
ROWS = [
    Row("A/A: worst of all", 2.0, "%", 5.0),
    Row("A/A 2.0%, 5 rps, icc 0", 2.0, "%", 5.0, note="4 of 200 rollouts, median look 49: error_rate/above_margin 4"),
    Row("A/A 2.0%, 5 rps, icc 0.05", 1.5, "%", 5.0),
    Row("+5 points on 0.5%, 5 rps, icc 0, 15 min", 98.3, "%", 95.0, "higher", note="590 of 600 rollouts, median look 10: x 590"),
    Row("+5 points on 2.0%, 5 rps, icc 0.01, 15 min", 0.0, "%", 95.0, "higher", note="0 of 600 rollouts"),
    Row("+5 points from minute 60 on, 20 rps, 30 min", 100.0, "%", 95.0, "higher", note="100 of 100 rollouts, median look 64: x 100"),
    Row("peer: 5-min threshold, A/A 2.0%, 5 rps", 98.5, "%", note="1000 rollouts of 60 looks"),
    Row("peer: 5-min threshold, A/A 2.0%, 20 rps", 77.7, "%", note="1000 rollouts of 60 looks"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench.gates_picture", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_small_report_is_drawn_and_its_rows_are_kept(tmp_path: Path) -> None:
    (tmp_path / "gates.json").write_text(json.dumps(report("gates", ROWS)))
    done = run(str(tmp_path / "gates.json"), "--output", str(tmp_path / "images" / "p.svg"))

    assert done.returncode == 0, done.stderr
    drawn = (tmp_path / "images" / "p.svg").read_text()
    # Traffic is shown where both rules were tried on it; burst and late rows of the other forms are left out.
    assert [text for text in texts(drawn) if "rps" in text] == [
        "2.0 % fail, 5 rps",
        "+5 points on 0.5 %, 5 rps",
        "+5 points on 2.0 %, 5 rps, bursts",
    ]
    assert {"2.0 %", "98.5 %", "10 min; 98.3 % in 15", "not found, asked 95 %"} <= set(texts(drawn))
    kept = [Row.from_json(row) for row in json.loads((tmp_path / "images" / "p.json").read_text())["rows"]]
    assert draw(kept) == drawn


def test_bars_are_as_long_as_their_numbers() -> None:
    [gate, threshold] = [
        float(bar.attrib["width"])
        for bar in ET.fromstring(draw(ROWS)).iter("{http://www.w3.org/2000/svg}rect")
        if bar.attrib.get("x") == "150"
    ]

    assert threshold / gate == pytest.approx(98.5 / 2.0, rel=0.02)


def test_harm_is_read_from_the_reports_words() -> None:
    assert healthy(ROWS)[0].threshold == 98.5
    assert harms(ROWS)[0] == Harm("+5 points on 0.5 %, 5 rps", 10.0, 98.3, 15, 95.0)


@pytest.mark.parametrize("kept", [[0, 1, 6], [3], []])
def test_half_a_report_is_no_picture(kept: list[int]) -> None:
    with pytest.raises(NothingToDraw):
        draw([ROWS[number] for number in kept])


@pytest.mark.parametrize("text", [None, "nonsense", "{}", '{"rows": []}'])
def test_what_is_no_report_is_said_and_leaves_the_picture_alone(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    done = run(str(tmp_path / "r.json"), "--output", str(tmp_path / "p.svg"))

    assert (done.returncode, (tmp_path / "p.svg").exists()) == (2, False)
    assert done.stderr.startswith("gates_picture: ")


def test_the_committed_picture_is_what_its_rows_say() -> None:
    rows = [Row.from_json(row) for row in json.loads(PICTURE.with_suffix(".json").read_text())["rows"]]

    assert PICTURE.read_text() == draw(rows)


def test_the_document_and_the_picture_have_the_same_numbers() -> None:
    """The table is of the whole report; the picture shows a part of it."""
    page = (ROOT / "docs" / "gate-statistics.md").read_text()
    rows = [Row.from_json(row) for row in json.loads(PICTURE.with_suffix(".json").read_text())["rows"]]
    shown = [row for row in rows if not row.name.startswith("A/A")]

    assert len(shown) > 10
    assert [row.name for row in shown if f"| {row.name} | {row.value:.1f} % |" not in page] == []
