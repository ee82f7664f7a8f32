"""The pictures: the numbers that Prometheus gave, on the dashboard's own grid, readable without Grafana."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from isolation_monitor.collector.container_metrics import CONTAINER_STATES, EXIT_REASONS, REMOVAL_MODES
from isolation_monitor.dashboards.build import GENERATED
from isolation_monitor.dashboards.preview import board as reader
from isolation_monitor.dashboards.preview import formats, page, svg
from isolation_monitor.dashboards.preview.__main__ import main, write
from isolation_monitor.dashboards.preview.charts import Line, _runs, _stacks
from isolation_monitor.dashboards.preview.prometheus import Prometheus as Client
from isolation_monitor.dashboards.preview.prometheus import QueryError, Series, Window, fill
from isolation_monitor.telemetry import names
from tests.dashboards.boards import UIDS, board, panels
from tests.real_parts.processes import PATIENCE_S, eventually, free_port
from tests.real_parts.prometheus import Prometheus

WINDOW = Window(1_000.0, 1_300.0, 10.0)
NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def texts(picture: str, panel: str) -> list[str]:
    """The texts drawn inside a panel; a shortened one by its whole text."""
    found = []
    for group in ElementTree.fromstring(picture).iterfind(".//svg:g", NAMESPACE):
        if group.get("data-panel") == panel:
            for text in group.iterfind(".//svg:text", NAMESPACE):
                tip = text.find("svg:title", NAMESPACE)
                found.append((tip.text if tip is not None else text.text) or "")
    return found


def overview() -> reader.Board:
    return reader.read(board("isolation-overview"))


def answers(found: reader.Board, **values: dict[str, list[Series]]) -> dict[str, page.Answers]:
    """No data for any panel, but these for the titles given."""
    return {page.key(panel): values.get(panel.title, {target.ref: [] for target in panel.targets}) for panel in found.panels}


def series(*values: float, **labels: str) -> Series:
    return Series(labels, tuple((1_000.0 + 10 * number, value) for number, value in enumerate(values)))


def test_a_picture_of_each_dashboard_holds_the_numbers_of_prometheus(watched: Prometheus, tmp_path: Path):
    # The rules of the dead man's switch run each 15 s, those of the score each second.
    all_there = 'isolation_score * on (service) event_delivery_rate and on () ALERTS{alertname="DeadMansSwitch"}'
    assert eventually(lambda: watched.value(all_there), "score, delivery and alerts are recorded", 2 * PATIENCE_S) == 10_000.0
    end_s = time.time()

    with Client(watched.url) as client:
        written = write(client, tmp_path, length_s=120, end_s=end_s)

    assert {path.name for path in written} == {f"{uid}.svg" for uid in UIDS}
    overview_text, delivery_text = ((tmp_path / f"{uid}.svg").read_text() for uid in UIDS[:2])
    assert "100.00 %" in texts(overview_text, "Isolation score")
    assert "0" in texts(overview_text, "Foreign data left the service")
    assert "no" in texts(overview_text, "Are we blind?")
    assert {"chat", "100.00 %", "0"} <= set(texts(overview_text, "The public numbers by service"))
    assert "DeadMansSwitch" in texts(overview_text, "Firing alerts")
    assert "3" in texts(delivery_text, "Runs under way")
    assert "100.00 %" in texts(delivery_text, "Delivery rate")


def test_every_panel_is_drawn_once_and_inside_the_page():
    for uid in UIDS:
        found = reader.read(board(uid))
        picture = ElementTree.fromstring(page.draw(found, answers(found), WINDOW))
        drawn = [group.get("data-panel") for group in picture.iterfind(".//svg:g", NAMESPACE)]

        assert sorted(filter(None, drawn)) == sorted(panel["title"] for panel in panels(board(uid)))
        for box in picture.iterfind(".//svg:rect", NAMESPACE):
            assert float(box.get("x", 0)) + float(box.get("width", 0)) <= page.WIDTH
            assert float(box.get("y", 0)) + float(box.get("height", 0)) <= float(picture.get("height", 0))


def test_a_panel_without_data_says_what_that_means():
    """No score is not a good score."""
    found = overview()
    picture = page.draw(found, answers(found), WINDOW)

    assert "not measurable" in texts(picture, "Isolation score")
    assert "BLIND" in texts(picture, "Are we blind?")
    assert "rules are dead" in texts(picture, "Firing alerts")
    assert not any("100" in text for text in texts(picture, "Isolation score"))


def test_the_words_of_a_value_are_shown_in_its_colour():
    found = overview()
    picture = page.draw(found, answers(found, **{"Are we blind?": {"A": [series(2.0)]}}), WINDOW)

    assert "BLIND" in texts(picture, "Are we blind?")
    assert formats.color("red") in picture


def test_a_number_beyond_its_threshold_is_red():
    found = overview()
    quiet, loud = (page.draw(found, answers(found, **{"Could have crossed": {"A": [series(value)]}}), WINDOW) for value in (0.0, 1.0))

    assert f'fill="{formats.color("red")}"' not in quiet
    assert f'fill="{formats.color("red")}"' in loud


def test_values_of_several_queries_join_in_one_line_of_a_table():
    found = overview()
    title = "The public numbers by service"
    values = {letter: [series(float(number), service="chat")] for number, letter in enumerate("ABCDEF")}
    picture = page.draw(found, answers(found, **{title: values}), WINDOW)

    drawn = texts(picture, title)
    assert drawn[drawn.index("chat") :][:7] == ["chat", "0.00 %", "1.00 %", "2.0 ms", "3.00 %", "4", "5"]


def test_text_from_labels_cannot_break_out_of_the_picture():
    found = overview()
    evil = '"><script>alert(1)</script>&'
    picture = page.draw(found, answers(found, **{"Isolation score": {"A": [series(1.0, service=evil)]}}), WINDOW)

    assert "<script" not in picture
    ElementTree.fromstring(picture)


def test_missing_points_break_a_line():
    """A line across a gap would claim numbers that nobody measured."""
    assert [len(run) for run in _runs({0.0: 1.0, 10.0: 1.0, 40.0: 1.0}, 10.0)] == [2, 1]


def test_stacked_lines_add_up_at_each_time():
    lines = [Line("a", {0.0: 1.0, 10.0: 2.0}, "#000"), Line("b", {10.0: 5.0}, "#000")]

    assert _stacks(lines) == [{0.0: 1.0, 10.0: 2.0}, {10.0: 7.0}]


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "shown"),
    [
        (99.97, "percent", 2, "99.97 %"),
        (0.5, "percentunit", 1, "50.0 %"),
        (0.0004, "s", None, "400 µs"),
        (0.0015, "s", None, "1.5 ms"),
        (1.25, "s", None, "1.25 s"),
        (600, "s", None, "10 min"),
        (86_400, "s", None, "24 h"),
        (0, "s", 1, "0 s"),
        (12.345, "reqps", None, "12.3 req/s"),
        (1_234_567, "none", None, "1,234,567"),
        (0.000_001, "none", None, "0.000001"),
        (3, "none", 0, "3"),
        (512, "bytes", None, "512 B"),
        (125_829_120, "bytes", None, "120 MiB"),
    ],
)
def test_numbers_read_as_in_grafana(value, unit, decimals, shown):
    assert formats.number(value, unit, decimals) == shown


def test_every_unit_of_the_dashboards_has_a_format():
    for path in GENERATED.glob("*.json"):
        for panel in reader.read(json.loads(path.read_text())).panels:
            formats.number(1.0, panel.unit)
    with pytest.raises(formats.UnknownUnitError, match="furlong"):
        formats.number(1.0, "furlong")


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 100, [0, 25, 50, 75, 100]), (0, 0.01, [0, 0.0025, 0.005, 0.0075, 0.01]), (5, 5, [5])]
)
def test_axes_have_round_numbers(low, high, expected):
    assert formats.ticks(low, high) == pytest.approx(expected)


def test_axes_of_bytes_and_durations_have_numbers_that_are_round_in_their_unit():
    assert formats.ticks(0, 100e6, "bytes") == [0, 32 << 20, 64 << 20]
    assert formats.ticks(0, 600, "s") == [0, 300, 600]
    assert formats.ticks(0, 0.01, "s") == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01])


def test_what_means_something_bad_has_the_colour_of_that():
    """A palette would give "forced" its first colour, which is green."""
    found = reader.read(board("containers"))
    removals = {"A": [series(1.0, 2.0, isolation_mode=mode) for mode in ("forced", "graceful", "unknown")]}
    picture = page.draw(found, answers(found, **{"Removals, by how": removals}), WINDOW)

    group = next(
        one for one in ElementTree.fromstring(picture).iterfind(".//svg:g", NAMESPACE) if one.get("data-panel") == "Removals, by how"
    )
    lines = [one.get("stroke") for one in group.iterfind(".//svg:polyline", NAMESPACE)]
    assert lines == [formats.color("red"), formats.color("green"), formats.color("#8e8e8e")]


def test_colours_that_a_dashboard_chooses_are_of_values_that_exist():
    """A colour for a name that no series has is a colour that nobody sees."""
    for uid, title, values in (
        ("containers", "Containers, by state", CONTAINER_STATES),
        ("containers", "Ends, by how", EXIT_REASONS),
        ("containers", "Removals, by how", REMOVAL_MODES),
        ("isolation-overview", "Requests judged, by verdict", names.VERDICTS),
        ("monitor-health", "Planted faults, seen and missed", ("seen", "missed")),
    ):
        (panel,) = [one for one in reader.read(board(uid)).panels if one.title == title]
        assert set(panel.colors) == set(values), title


def test_a_name_that_is_too_long_is_cut_and_kept_as_a_tooltip():
    drawn = svg.text(0, 0, "x" * 100, size=10, room=60)

    assert "…" in drawn
    assert f"<title>{'x' * 100}</title>" in drawn


def test_variables_become_what_grafana_would_send():
    assert fill('rate(x{service=~"$service"}[$__rate_interval])', WINDOW, {"service": "a|b"}) == 'rate(x{service=~"a|b"}[60s])'
    assert fill("increase(x[$__range])", WINDOW, {}) == "increase(x[300s])"
    with pytest.raises(QueryError, match=r"\$unknown has no value"):
        fill("$unknown", WINDOW, {})


def test_a_refused_query_and_a_dead_prometheus_are_said_in_one_line(watched: Prometheus, capsys, tmp_path):
    with Client(watched.url) as client, pytest.raises(QueryError, match=r"400 .*for: sum\("):
        client.now("sum(", WINDOW)

    dead = f"http://127.0.0.1:{free_port()}"
    assert main(["--prometheus", dead, "--out", str(tmp_path)]) == 1
    assert dead in capsys.readouterr().err


def test_the_command_prints_the_files_it_wrote(watched: Prometheus, capsys, tmp_path):
    assert main(["--prometheus", watched.url, "--out", str(tmp_path), "--last", "2m", "--service", "chat"]) == 0

    assert capsys.readouterr().out.split() == [str(tmp_path / f"{uid}.svg") for uid in sorted(UIDS)]
    with pytest.raises(SystemExit):
        main(["--prometheus", watched.url, "--last", "soon"])
