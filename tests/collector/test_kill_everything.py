"""Acknowledged means kept, whatever is killed: the short form of `make bench-kill`, with its controls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_parts.killable_postgres import killable_postgres
from tests.real_parts.killing import kill_applications, kill_collectors, kill_early_collectors, kill_postgres

pytestmark = pytest.mark.slow


def test_what_a_collector_on_sqlite_acknowledged_survives_its_kills(tmp_path: Path) -> None:
    outcome = kill_collectors(tmp_path, kills=4, per_kill=1_500, progress=print)

    assert len(outcome.promised) >= 3_000
    assert (outcome.lost, outcome.twice) == (0, 0)


def test_what_a_collector_acknowledged_survives_the_kills_of_postgresql(tmp_path: Path) -> None:
    with killable_postgres() as cluster:
        outcome = kill_postgres(tmp_path, cluster, kills=4, per_kill=1_500, progress=print)

    assert len(outcome.promised) >= 3_000
    assert (outcome.lost, outcome.twice) == (0, 0)


def test_what_an_application_spooled_survives_its_kills(tmp_path: Path) -> None:
    outcome = kill_applications(tmp_path, kills=6, per_kill=2_000, progress=print)

    assert len(outcome.promised) >= 6_000
    assert (outcome.lost, outcome.twice) == (0, 0)


def test_the_controls_that_acknowledge_early_lose(tmp_path: Path) -> None:
    """Else the tests above would see nothing."""
    collector = kill_early_collectors(tmp_path, kills=2, per_kill=10_000, progress=print)
    application = kill_applications(tmp_path / "application", kills=2, per_kill=5_000, progress=print, early=True, name="early-application")

    assert collector.lost > 0
    assert application.lost > 0
