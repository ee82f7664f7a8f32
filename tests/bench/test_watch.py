"""`make bench-watch`: it takes the parts' rows as they are, and names the part that is missing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bench import watch
from bench.rows import Row


def test_a_part_that_is_missing_is_named_before_anything_is_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda _name: None)

    assert watch.main(["--parts", "ci"]) == 2
    assert "bench/watch_ci.py is not there: write it, or run the others with --parts" in capsys.readouterr().err


async def test_rows_of_the_parts_come_as_they_are_in_order(monkeypatch: pytest.MonkeyPatch):
    for part in watch.PARTS:
        module = ModuleType(f"bench.watch_{part}")

        async def rows(quick: bool, part: str = part) -> list[Row]:
            return [Row(part, float(quick), "runs", 1.0, "higher")]

        module.rows = rows  # type: ignore[attr-defined]  # a module of this test's own
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda _name: object())

    assert [(row.name, row.value) for row in await watch.measured(watch.PARTS, quick=True)] == [(part, 1.0) for part in watch.PARTS]


def test_an_alert_that_never_arrived_is_named_and_fails():
    drills = [
        {"alert": "A", "arrived_after_s": 3.0, "own_wait_s": 0.0},
        {"alert": "B", "arrived_after_s": 305.0, "own_wait_s": 300.0},
        {"alert": "C", "arrived_after_s": None, "own_wait_s": 0.0},
    ]

    arrived, every = watch.rows_of_drills(drills[:2]), watch.rows_of_drills(drills)

    assert [(row.value, row.ok) for row in arrived] == [(5.0, True), (5.0, True), (2, True)]
    assert [row.ok for row in every] == [False, True, False]
    assert "never arrived: C" in every[0].note
