"""From the harm to the flag that is off, in a short form: both ways come to their end, and are measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import rollback


@pytest.mark.slow
def test_both_ways_are_measured(tmp_path: Path) -> None:
    output = tmp_path / "rollback.json"

    rollback.main(["--trials", "2", "--output", str(output)])

    rows = {row["name"]: row for row in json.loads(output.read_text())["rows"]}
    assert [rows[f"harm to flag off by {way}, p95"]["budget"] for way in ("record", "alert")] == [1.0, 5.0]
    assert rows["harm to page by record, p95"]["budget"] == 1.0
    assert all(0 < row["value"] < rollback.LIMIT_S for row in rows.values())


def test_the_95th_percentile_of_twenty_is_the_second_largest() -> None:
    found = rollback.rows("record", [float(n) for n in range(1, 21)], 1.0)

    assert [row.value for row in found] == [19.0, 10.0, 20.0]
