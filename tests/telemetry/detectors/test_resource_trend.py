"""The trend as a function, with properties; the detector on series that the test plays, and on this very process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors import resource_trend as module
from isolation_monitor.telemetry.detectors.resource_trend import ResourceTrend, is_growth, trend
from isolation_monitor.telemetry.lab import Lab

VALUES = st.lists(st.integers(min_value=0, max_value=10**9).map(float), min_size=2, max_size=40)


def at(values: list[float], every_s: float = 10.0) -> list[tuple[float, float]]:
    return [(n * every_s, value) for n, value in enumerate(values)]


def test_a_straight_line_has_its_own_slope() -> None:
    """10 points from 5 by 2 a second: growth 18 over 9 s, 360 % of 5; 45 of 45 pairs rise, z = 44 / sqrt(125) = 3.94."""
    found = trend(at([5.0 + 2 * n for n in range(10)], every_s=1.0))

    assert (found.slope_per_s, found.growth, found.ratio) == (2.0, 18.0, 3.6)
    assert found.p_value == pytest.approx(4.2e-5, rel=0.05)


def test_fewer_than_two_points_have_no_trend() -> None:
    assert trend([]).p_value == trend([(0.0, 1.0)]).p_value == 1.0


@given(VALUES)
def test_what_stands_still_or_falls_is_never_growth(values: list[float]) -> None:
    falling = trend(at(sorted(values, reverse=True)))

    assert falling.p_value >= 0.5
    assert not any(is_growth(resource, falling) for resource in names.PROCESS_RESOURCE_NAMES)


@given(VALUES, st.integers(min_value=0, max_value=10**6))
def test_a_level_added_to_all_points_changes_neither_slope_nor_significance(values: list[float], level: int) -> None:
    one, other = trend(at(values)), trend(at([value + level for value in values]))

    assert (one.slope_per_s, one.p_value) == (other.slope_per_s, other.p_value)


@given(VALUES)
def test_significance_is_a_probability(values: list[float]) -> None:
    assert 0.0 <= trend(at(values)).p_value <= 1.0


@given(st.integers(min_value=0, max_value=39), st.floats(min_value=0, max_value=1e12))
def test_one_wild_value_among_many_moves_nothing(place: int, wild: float) -> None:
    values = [100.0] * 40
    values[place] = wild

    assert trend(at(values)).slope_per_s == 0.0


def test_noise_without_a_trend_is_not_taken_for_growth() -> None:
    """1,000 windows of pure noise: one in 10,000 may be taken for a rise, and it would have to be large as well."""
    chance = random.Random(7)
    noisy = [at([1000.0 + chance.gauss(0, 300) for _ in range(30)]) for _ in range(1000)]

    assert sum(is_growth("fds", trend(points)) for points in noisy) == 0


@pytest.fixture
def detector(monitor: IsolationMonitor) -> ResourceTrend:
    detector = monitor.detection.resource_trend
    detector._started = -module.WARM_UP_S
    return detector


def play(detector: ResourceTrend, resource: str, level: Callable[[int], float], looks: int = 60) -> None:
    for n in range(looks):
        detector.seen(resource, n * 10.0, level(n))


def test_files_that_are_never_closed_are_reported_once(monitor: IsolationMonitor, detector: ResourceTrend) -> None:
    play(detector, "fds", lambda n: 50.0 + 2 * n)

    (violation,) = monitor.violations()
    assert (violation.kind, violation.grade, violation.resource.name) == ("resource_trend", "hygiene", "fds")
    assert violation.resource.detail["growth_per_hour"] == 720


def test_growth_that_goes_on_is_reported_again_after_an_hour(monitor: IsolationMonitor, detector: ResourceTrend) -> None:
    play(detector, "fds", lambda n: 50.0 * 1.01**n, looks=400)

    assert len(monitor.violations()) == 2


def sawtooth(n: int) -> float:
    return 100.0 + 40 * (n % 6)


def one_jump(n: int) -> float:
    return 100.0 if n < 30 else 105.0


def too_little(n: int) -> float:
    return 100.0 + 0.2 * n


def slow_for_its_size(n: int) -> float:
    return 10_000.0 + n


def cache_that_fills(n: int) -> float:
    return 500.0 - 400.0 * 0.9**n


@pytest.mark.parametrize("level", [cache_that_fills, sawtooth, one_jump, too_little, slow_for_its_size])
def test_what_a_healthy_service_does_is_no_trend(monitor: IsolationMonitor, detector: ResourceTrend, level: Callable[[int], float]) -> None:
    play(detector, "fds", level)

    assert monitor.violations() == []
    assert monitor.registry.value(names.CHECKS, detector="resource_trend", result="pass") > 0


def test_start_up_is_left_out(monitor: IsolationMonitor) -> None:
    detector = monitor.detection.resource_trend
    detector._started = 0.0
    play(detector, "memory", lambda n: min(n, 5) * 2.0**30)

    assert monitor.violations() == []


def test_memory_is_judged_once_the_process_is_older_than_a_window(monitor: IsolationMonitor) -> None:
    detector = monitor.detection.resource_trend
    detector._started = 0.0
    play(detector, "memory", lambda n: 2.0**30 + n * 2.0**24, looks=60)
    assert monitor.violations() == []

    play(detector, "memory", lambda n: 2.0**30 + n * 2.0**24, looks=80)
    assert len(monitor.violations()) == 1


def test_what_the_monitor_keeps_itself_is_no_growth_of_the_application(monitor: IsolationMonitor, detector: ResourceTrend) -> None:
    kept = 0.0
    detector.own_bytes = lambda: kept
    for n in range(120):
        kept = n * 2.0**20
        detector.seen("memory", n * 10.0, 2.0**28 + kept)

    assert monitor.violations() == []
    assert monitor.registry.value(names.PROCESS_RESOURCES, resource="memory") > 2.0**28


def test_the_window_is_bounded(detector: ResourceTrend) -> None:
    play(detector, "tasks", lambda n: 1.0, looks=1_000)

    assert len(detector._points["tasks"]) <= module.MOST_POINTS
    assert detector._points["tasks"][-1][0] - detector._points["tasks"][0][0] <= 600


async def test_this_process_is_measured(monitor: IsolationMonitor) -> None:
    detector = monitor.detection.resource_trend
    detector.serving(asyncio.get_running_loop())
    await asyncio.to_thread(detector.tick, detector._looked_at + module.LOOK_EVERY_S)
    await asyncio.sleep(0)
    await asyncio.to_thread(detector.tick, detector._looked_at + module.LOOK_EVERY_S)

    values = {name: monitor.registry.value(names.PROCESS_RESOURCES, resource=name) for name in ("memory", "fds", "threads", "tasks")}
    assert values["memory"] > 2**20
    assert all(value >= 1 for value in values.values())


def test_a_closed_loop_is_let_go_without_an_error(monitor: IsolationMonitor) -> None:
    detector = monitor.detection.resource_trend
    loop = asyncio.new_event_loop()
    detector.serving(loop)
    loop.close()
    detector.tick(detector._looked_at + module.LOOK_EVERY_S)

    assert monitor.registry.value(names.CHECKS, detector="resource_trend", result="error") == 0


def test_an_error_of_ours_is_counted(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, float]:
        raise ValueError("planted")

    monkeypatch.setattr(module, "_held", broken)
    detector = monitor.detection.resource_trend
    detector.tick(detector._looked_at + module.LOOK_EVERY_S)

    assert monitor.registry.value(names.CHECKS, detector="resource_trend", result="error") == 1


def test_a_planted_trend_is_reported_as_synthetic(monitor: IsolationMonitor) -> None:
    monitor.detection.resource_trend.plant(Lab(monitor.principals))

    (violation,) = monitor.violations(synthetic=True)
    assert (violation.kind, violation.synthetic) == ("resource_trend", True)
