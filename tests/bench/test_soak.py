"""The soak: its judgement of what it saw, and a run of half a minute with a fault or two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from bench import soak
from bench.soak import Episode, Soak
from bench.soak_service import Size, _frame
from isolation_monitor.demo.expectations import EXPECTATIONS

ROOT = Path(__file__).parents[2]
FAULT = EXPECTATIONS[0]


def _soak(grows_mb_per_s: float = 0.0, seconds: int = 400) -> Soak:
    """A soak with one fault that did harm and was seen, and one sound stretch."""
    seen = Episode(FAULT, 0.0, 1.0, did_harm=True, found=Counter({(FAULT.kind, "crossed"): 3}))
    sizes = [(float(at), Size(150.0 + at * grows_mb_per_s, 230, 240.0)) for at in range(0, seconds, 2)]
    return Soak([Episode(None, 0.0, 1.0), seen], sizes, requests=100)


def _rows(seen: Soak) -> dict[str, soak.Row]:
    return {row.name: row for row in soak.rows_of(seen)}


def test_a_sound_soak_keeps_every_budget() -> None:
    rows = _rows(_soak())

    assert all(row.ok for row in rows.values())
    assert rows["injected faults accounted"].value == 100
    assert rows["growth: memory"].budget == 5


def test_steady_growth_misses_its_budget() -> None:
    """20 kB a second are 8 MB in 400 s."""
    rows = _rows(_soak(grows_mb_per_s=0.02))

    assert rows["growth: memory"].value == pytest.approx(7.96, abs=0.05)
    assert not rows["growth: memory"].ok


def test_growth_in_a_short_time_is_shown_and_not_judged() -> None:
    rows = _rows(_soak(grows_mb_per_s=0.5, seconds=60))

    assert rows["growth: memory"].budget is None
    assert "too short to judge" in rows["growth: memory"].note


def test_a_fault_that_was_missed_is_named() -> None:
    seen = _soak()
    seen.episodes.append(Episode(FAULT, 2.0, 3.0, did_harm=True, found=Counter({("loop_stall", "hygiene"): 1})))

    row = _rows(seen)["injected faults accounted"]

    assert row.value == 50
    assert not row.ok
    assert f"missed: {FAULT.fault}" in row.note


def test_a_fault_that_did_no_harm_is_neither_seen_nor_missed() -> None:
    seen = _soak()
    seen.episodes.append(Episode(FAULT, 2.0, 3.0))

    row = _rows(seen)["injected faults accounted"]

    assert row.value == 100
    assert "1 did no harm" in row.note


def test_a_violation_in_a_sound_stretch_is_a_false_alarm() -> None:
    seen = _soak()
    seen.episodes.append(Episode(None, 2.0, 3.0, found=Counter({("shared_state", "reachable"): 1, ("loop_stall", "hygiene"): 2})))

    rows = _rows(seen)

    assert rows["false alarms"].value == 1
    assert not rows["false alarms"].ok
    assert rows["hygiene in sound stretches"].value == 2


def test_frames_of_rude_users_are_frames() -> None:
    frame = _frame({"type": "x"})
    mask, masked = frame[2:6], frame[6:]

    assert frame[0] == 0x81
    assert frame[1] & 0x7F == len(masked)
    assert json.loads(bytes(byte ^ mask[n % 4] for n, byte in enumerate(masked))) == {"type": "x"}


@pytest.mark.slow
def test_half_a_minute_of_faults_is_accounted_for(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--minutes", "0.6", "--users", "24", "--requests-per-s", "40", "--fault-s", "4",
         "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip

    rows = {row["name"]: row["value"] for row in json.loads(output.read_text())["rows"]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows["injected faults accounted"] == 100
    assert rows["false alarms"] == 0
    assert rows["left in the middle"] > 5
