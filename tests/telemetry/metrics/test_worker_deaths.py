"""Workers that vanish, as real processes that are killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import Exposure
from isolation_monitor.telemetry.metrics.registry import MetricRegistry
from isolation_monitor.telemetry.metrics.worker_deaths import LOOK_EVERY_S, WorkerDeaths

WORKER = """
    import os, sys
    from pathlib import Path
    from isolation_monitor.telemetry import names
    from isolation_monitor.telemetry.context import Exposure
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.metrics.worker_deaths import WorkerDeaths
    registry, exposure = MetricRegistry("tests", Path(sys.argv[1])), Exposure()
    deaths = WorkerDeaths(registry, exposure)
    exposure.principals = int(sys.argv[2])
    deaths.tick(0.0)
    if sys.argv[3] == "shut down":
        deaths.ended()
    if sys.argv[3] == "close":
        registry.close()
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[MetricRegistry]:
    registry = MetricRegistry("tests", tmp_path)
    for metric in (names.WORKER_DEATHS, names.FAILURES, names.FAILURE_PRINCIPALS):
        registry.declare(metric)
    yield registry
    registry.close()


def worker_ends(tmp_path: Path, how: str, serving: int = 3) -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path), str(serving), how], check=False)
    assert done.returncode == -9


def deaths_counted_by(registry: MetricRegistry, looks: int = 3) -> float:
    deaths = WorkerDeaths(registry, Exposure())
    for n in range(looks):
        deaths.tick((n + 1) * LOOK_EVERY_S * 2)
    return registry.value(names.WORKER_DEATHS)


def test_a_worker_killed_while_it_served_is_counted_once_as_an_escaped_failure(registry: MetricRegistry, tmp_path: Path) -> None:
    worker_ends(tmp_path, "killed")

    assert deaths_counted_by(registry) == 1
    assert deaths_counted_by(registry) == 1
    assert registry.value(names.FAILURES, outcome="escaped", arm="none") == 1
    assert registry.histogram(names.FAILURE_PRINCIPALS).sum() == 3


@pytest.mark.parametrize(("how", "serving"), [("close", 3), ("shut down", 3), ("killed", 0)])
def test_a_worker_that_ended_well_or_served_nobody_is_no_failure(registry: MetricRegistry, tmp_path: Path, how: str, serving: int) -> None:
    worker_ends(tmp_path, how, serving)

    assert deaths_counted_by(registry) == 0


LEAVES_EVENTS = """
    import os, sys
    from pathlib import Path
    from isolation_monitor.telemetry import names
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    registry = MetricRegistry("tests", Path(sys.argv[1]))
    registry.counter(names.EVENT_RUNGS, rung="emitted", highest="client_acked").inc(10)
    registry.counter(names.EVENTS_SETTLED, outcome="acknowledged", highest="client_acked").inc(6)
    registry.counter(names.EVENTS_SETTLED, outcome="expired", highest="client_acked").inc(1)
    registry.counter(names.EVENT_RUNGS, rung="emitted", highest="pong_acked").inc(2)
    os.kill(os.getpid(), 9)
"""


def test_events_that_a_killed_worker_had_not_settled_are_unknown(registry: MetricRegistry, tmp_path: Path) -> None:
    """Nobody will hear any more what became of them: they are counted by whoever lives, once, and not as delivered."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(LEAVES_EVENTS), str(tmp_path)], check=False)
    assert done.returncode == -9

    deaths_counted_by(registry)
    deaths_counted_by(registry)

    assert registry.value(names.EVENTS_SETTLED, outcome="unknown", highest="client_acked") == 3
    assert registry.value(names.EVENTS_SETTLED, outcome="unknown", highest="pong_acked") == 2
    assert registry.value(names.EVENT_DELIVERIES, result="unknown", arm="none") == 5
    assert registry.value(names.WORKER_DEATHS) == 0, "it served nobody"


def test_living_workers_and_oneself_are_never_counted(registry: MetricRegistry, tmp_path: Path) -> None:
    other = MetricRegistry("tests", tmp_path)
    other.gauge(names.PRINCIPALS_ACTIVE).set(5.0)

    assert deaths_counted_by(registry) == 0
    other.close()


def test_without_a_shared_folder_nothing_happens(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    alone = MetricRegistry("tests", file)

    assert deaths_counted_by(alone) == 0
    alone.close()
