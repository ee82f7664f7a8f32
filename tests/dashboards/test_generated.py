"""The committed files: fresh, of the promised form, and fit to be loaded from disk."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from typing import Any

import pytest

from isolation_monitor.alerts import thresholds
from isolation_monitor.dashboards import build
from tests.dashboards.boards import UIDS, board, boards, expressions, panels


def test_the_committed_files_are_a_fresh_build():
    assert build.stale(build.texts(), build.GENERATED) == []


def test_check_names_a_file_that_is_stale_and_one_that_nobody_builds(tmp_path, capsys):
    assert build.main(["--out", str(tmp_path)]) == 0
    (tmp_path / "event-delivery.json").write_text("{}")
    (tmp_path / "left-over.json").write_text("{}")

    assert build.main(["--out", str(tmp_path), "--check"]) == 1

    assert "event-delivery.json, left-over.json" in capsys.readouterr().err


@pytest.mark.parametrize("uid", UIDS)
def test_the_form_is_classic_42_under_a_constant_uid(uid):
    tree = board(uid)

    assert (tree["uid"], tree["schemaVersion"]) == (uid, 42)
    assert tree["graphTooltip"] == 1
    assert (tree["timezone"], tree["refresh"]) == ("browser", "10s")
    # Grafana drops this transformation after version 42; ids are Grafana's to give.
    assert "formatTime" not in json.dumps(tree)
    assert "id" not in tree


@pytest.mark.parametrize("uid", UIDS)
def test_panels_do_not_overlap_and_stay_on_the_grid(uid):
    places = [(item["id"], item["gridPos"]) for item in board(uid)["panels"]]
    for row in board(uid)["panels"]:
        places += [(item["id"], item["gridPos"]) for item in row.get("panels", ())]

    for (first, a), (second, b) in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, f"panels {first} and {second} overlap"
    assert all(place["x"] + place["w"] <= 24 for _, place in places)
    assert len({number for number, _ in places}) == len(places)


@pytest.mark.parametrize("uid", UIDS)
def test_lines_of_the_grid_are_full(uid):
    """A hole in a line looks like something that failed to load."""
    widths: dict[int, int] = {}
    for panel in panels(board(uid)):
        place = panel["gridPos"]
        for y in range(place["y"], place["y"] + place["h"]):
            widths[y] = widths.get(y, 0) + place["w"]

    assert set(widths.values()) == {24}


@pytest.mark.parametrize("uid", UIDS)
def test_no_variable_is_unused_and_none_is_unknown(uid):
    tree = board(uid)
    queries = [{key: item[key] for key in ("query", "datasource") if key in item} for item in tree["templating"]["list"]]
    text = json.dumps({**tree, "templating": queries})
    used = {first or second for first, second in re.findall(r"\$(?:\{(\w+)\}|(\w+))", text)} - {"__rate_interval", "__range", "__all"}

    assert used == {item["name"] for item in tree["templating"]["list"]}


@pytest.mark.parametrize("uid", UIDS)
def test_violations_and_alerts_are_marked_in_every_graph(uid):
    more = {"Verdicts": True, "Rollouts": True} if uid == "rollout" else {}
    assert {item["name"]: item["enable"] for item in board(uid)["annotations"]["list"]} == {"Violations": True, "Alerts": True, **more}


@pytest.mark.parametrize("uid", UIDS)
def test_links_lead_to_every_other_dashboard_and_the_runbooks_and_are_visible(uid):
    *siblings, runbooks = board(uid)["links"]

    assert [link["url"] for link in siblings] == [f"/d/{other}" for other in UIDS if other != uid]
    assert runbooks["url"] == "http://localhost:8400/runbooks"
    assert all(link["keepTime"] and link["includeVars"] for link in siblings)
    # `inControlsMenu` would hide them.
    assert all("placement" not in link for link in (*siblings, runbooks))


def test_another_collector_address_changes_the_links_and_nothing_else():
    changed = json.dumps(build.dashboards("https://isolation.example.com/"), sort_keys=True)

    assert "localhost" not in changed
    assert changed.replace("https://isolation.example.com", "http://localhost:8400") == json.dumps(build.dashboards(), sort_keys=True)


def test_the_file_with_the_alerts_numbers_is_where_the_dashboards_take_theirs_from():
    """One number changed there changes the alert and the dashboards together."""
    known = thresholds.load()
    changed = dataclasses.replace(
        known,
        delivery=dataclasses.replace(known.delivery, page_below_percent=97),
        resolution=dataclasses.replace(known.resolution, page_below_percent=97),
    )

    before, after = (_values(build.dashboards(t=t)) for t in (known, changed))

    assert 99 in before
    assert 97 not in before
    assert 99 not in after
    assert 97 in after


def _values(tree: Any) -> set[float]:
    """Every threshold's value in a tree of JSON."""
    if isinstance(tree, dict):
        own = {tree["value"]} if "color" in tree and isinstance(tree.get("value"), (int, float)) else set()
        return own.union(*(_values(item) for item in tree.values()))
    return set().union(*(_values(item) for item in tree)) if isinstance(tree, list) else set()


def test_no_query_hides_missing_data_behind_a_constant():
    for tree in boards():
        for where, expr in expressions(tree):
            assert "vector(" not in expr, where
            assert "absent(" not in expr, where
