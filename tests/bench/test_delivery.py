"""Every event accounted for, in a short form: two workers, clients in a process of their own, cuts, and a `kill -9`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_sides_count_the_same_events(tmp_path: Path) -> None:
    output = tmp_path / "delivery.json"
    size = ["--sockets", "60", "--seconds", "15", "--processes", "2", "--every", "0.3"]

    done = subprocess.run(
        [sys.executable, "-m", "bench.delivery", *size, "--quick", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )

    assert output.exists(), done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(output.read_text())["rows"]}
    assert rows["events accounted"]["value"] == 100, rows
    assert rows["events emitted"]["value"] > 500
    assert rows["events shown twice"]["value"] == 0
    assert rows["gaps and disorder seen by clients"]["value"] == 0
    assert {row["unit"] for row in rows.values() if row["name"].startswith("ledger memory")} == {"B", "KiB"}
