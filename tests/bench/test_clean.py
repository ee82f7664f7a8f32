"""A million clean requests, in small: no false alarm, no detector without work, and a service that shares as real ones do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiosqlite")

from bench import clean, clean_users
from bench.clean import Tally
from isolation_monitor.telemetry import IsolationMonitor, names

ROOT = Path(__file__).parents[2]


def _rows(tally: Tally, wanted: int = 10) -> dict[str, clean.Row]:
    return {row.name: row for row in clean.rows_of(tally, wanted, 1.0)}


def _sound() -> Tally:
    tally = Tally()
    tally.requests.update({"chat": 6, "shop": 4})
    tally.judged.update({"isolated": 8, "unverified": 2, "exposed": 9})
    tally.checks.update(dict.fromkeys(clean.AT_WORK, 3))
    return tally


def test_a_sound_tally_keeps_every_budget() -> None:
    rows = _rows(_sound())

    assert all(row.ok for row in rows.values())
    assert rows["exposed"].value == 90
    assert rows["judged isolated"].value == 80


@pytest.mark.parametrize("grade", ["crossed", "reachable"])
def test_one_false_alarm_misses_the_budget(grade: str) -> None:
    tally = _sound()
    tally.violations[f"foreign_content {grade}"] = 1

    assert not _rows(tally)["false alarms: crossed or reachable"].ok


def test_hygiene_is_shown_and_is_no_false_alarm() -> None:
    tally = _sound()
    tally.violations["loop_stall hygiene"] = 2

    rows = _rows(tally)

    assert rows["hygiene"].value == 2
    assert all(row.ok for row in rows.values())


def test_a_detector_without_work_misses_its_budget() -> None:
    """Zero alarms of a detector that looked at nothing prove nothing."""
    tally = _sound()
    tally.checks[names.SHARED_STATE] = 0

    assert not _rows(tally)["checks: shared_state"].ok


def test_errors_of_the_monitor_and_too_few_requests_miss_their_budgets() -> None:
    tally = _sound()
    tally.errors["detector"] = 1

    rows = _rows(tally, wanted=11)

    assert not rows["errors of the monitor"].ok
    assert not rows["requests"].ok


def test_tallies_of_workers_add_up() -> None:
    tally = _sound()

    tally.add(json.loads(json.dumps(vars(_sound()))))

    assert sum(tally.requests.values()) == 20
    assert tally.checks[names.SHARED_STATE] == 6


async def test_the_shop_shares_as_real_services_do_and_nothing_is_reported(tmp_path: Path) -> None:
    """An administrator, public articles, both kinds of cache, messages between users, rooms: none of it is a leak."""
    monitor = IsolationMonitor.from_env(service="bench", hash_key="only for tests", metrics_dir=str(tmp_path / "metrics"))
    try:
        async with clean_users.shop(monitor, tmp_path, 12, 1) as population:
            sent = await population.requests(400)

        assert sent >= 400
        assert population.unexpected == []
        assert [v.summary for v in monitor.violations() if v.grade != "hygiene"] == []
    finally:
        await monitor.aclose()


@pytest.mark.slow
def test_two_thousand_requests_of_both_services_raise_no_false_alarm(tmp_path: Path) -> None:
    output = tmp_path / "clean.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.clean", "--requests", "2000", "--workers", "2", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    written = json.loads(output.read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert written["ok"]
    rows = {row["name"]: row["value"] for row in written["rows"]}
    assert rows["requests"] >= 2_000
    assert rows["exposed"] > 50
