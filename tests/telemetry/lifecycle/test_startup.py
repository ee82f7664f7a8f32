"""Start-up: phases in their order and side by side, errors at declaration, the phase that hangs named, readiness that tells the truth."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.errors import LifecycleError
from isolation_monitor.telemetry.lifecycle.lifecycle import Lifecycle

PATIENCE_S = 30.0


@pytest.fixture
def life(make_monitor: Callable[..., IsolationMonitor]) -> Lifecycle:
    return make_monitor(startup_hang_s=0.2, lifecycle_signals="off").lifecycle


async def test_phases_run_side_by_side_and_after_what_they_come_after(life: Lifecycle) -> None:
    together = asyncio.Barrier(2)
    order: list[str] = []

    @life.phase("settings", in_thread=False)
    def settings() -> None:
        order.append("settings")

    @life.phase("database", after=["settings"])
    async def database() -> None:
        await together.wait()
        order.append("database")

    @life.phase("model", after=["settings"])
    async def model() -> None:
        # Meets the other one only when both run at once.
        await together.wait()

    life.barrier("stores", after=["database", "model"])

    @life.phase("warm", after=["stores"])
    def warm() -> None:
        order.append("warm")

    assert not life.is_ready
    async with asyncio.timeout(PATIENCE_S):
        await life.astart()

    assert order == ["settings", "database", "warm"]
    assert life.is_ready


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (lambda life: life.phase("cache", after=["databse"]), "'databse', which is no phase: did you mean 'database'"),
        (lambda life: life.phase("cache", after=["queue"]), "known: 'database', 'model'"),
        (lambda life: life.phase("cache", after=["cache"]), "waits for itself"),
        (lambda life: life.phase("cache", after=["model"], before=["database"]), "cycle: cache after model after database after cache"),
        (lambda life: life.phase("database"), "declared twice"),
        (lambda life: life.phase("cache", after="model"), r"write a list, after=\['model'\]"),
        (lambda life: life.phase(""), "text of 1 to 60"),
        (lambda life: life.phase("cache", timeout_s=0), "seconds above 0"),
        (lambda life: life.phase("cache")(lambda database: None), "takes arguments"),
        (lambda life: life.phase("cache")(None), "cannot be called"),
        (lambda life: life.cleanup("a", after=["b"])(print), "is no step"),
        (lambda life: life.cleanup("a", timeout_s=60)(lambda: None), "cleanup_limit_s"),
        (lambda life: life.check("a", timeout_s=0)(lambda: None), "above 0 s"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_where_it_is_declared(life: Lifecycle, declare: Callable[[Lifecycle], object], complaint: str) -> None:
    life.phase("database")(lambda: None)
    life.phase("model", after=["database"])(lambda: None)

    with pytest.raises(LifecycleError, match=complaint):
        declare(life)

    life.phase("another")(lambda: None)


async def test_a_phase_that_fails_is_named_cancels_the_others_and_raises_its_own_error(life: Lifecycle) -> None:
    cancelled = asyncio.Event()

    @life.phase("database")
    async def database() -> None:
        await asyncio.sleep(0)
        raise ConnectionRefusedError("nobody listens")

    @life.phase("model")
    async def model() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    @life.phase("warm", after=["database"])
    async def warm() -> None:
        raise AssertionError("began after what it comes after had failed")

    with pytest.raises(ConnectionRefusedError, match="nobody listens") as raised:
        async with life:
            raise AssertionError("started")

    assert "start-up phase 'database' failed" in raised.value.__notes__[0]
    assert cancelled.is_set()
    assert life.state == "stopped"
    assert not life.is_ready


async def test_a_failed_start_is_not_ready_and_says_where(life: Lifecycle) -> None:
    @life.phase("database", timeout_s=0.05)
    async def database() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(TimeoutError, match=r"'database' did not end within its timeout_s=0\.05"):
        await life.astart()

    ready, started = await life.health.answer("readyz"), await life.health.answer("startupz")
    assert (ready.status, started.status) == (503, 503)
    assert ready.body["reasons"] == ["the start-up failed in database"]
    assert (await life.health.answer("livez")).status == 200


async def test_a_phase_that_hangs_is_named_with_where_it_stands(
    make_monitor: Callable[..., IsolationMonitor], samples: Callable[..., float], caplog: pytest.LogCaptureFixture
) -> None:
    monitor = make_monitor(startup_hang_s=0.05, lifecycle_signals="off")
    life, gate, ended = monitor.lifecycle, asyncio.Event(), threading.Event()

    @life.phase("database")
    async def wait_for_database() -> None:
        await gate.wait()

    @life.phase("model")
    def load_model() -> None:
        ended.wait(PATIENCE_S)

    block = life.phase("tables")
    starting = asyncio.create_task(life.astart())
    with caplog.at_level(logging.WARNING, "isolation_monitor"):
        async with asyncio.timeout(PATIENCE_S):
            while samples(monitor, "isolation_startup_phase_hanging") < 3:  # noqa: ASYNC110  # told by a thread
                await asyncio.sleep(0.02)
    hanging = (await life.health.answer("readyz")).body["startup"]["phases"]
    ended.set()
    gate.set()
    async with asyncio.timeout(PATIENCE_S):
        async with block:
            pass
        await starting

    assert hanging["database"]["hangs"]
    told = caplog.text
    assert "start-up phase 'database' hangs" in told
    assert "wait_for_database" in told
    assert "load_model" in told
    assert "phase 'tables' hangs" in told
    assert "has not begun" in told
    assert samples(monitor, "isolation_startup_phase_hanging") == 0
    assert samples(monitor, "isolation_startup_phase_duration_seconds_count", isolation_result="done") == 3
    assert samples(monitor, "isolation_startup_ready_timestamp_seconds") == pytest.approx(time.time(), abs=PATIENCE_S)
    assert samples(monitor, "isolation_monitor_errors_total") == 0


async def test_a_phase_that_holds_the_event_loop_is_told_of_too(life: Lifecycle, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody on the loop could say so: the watch has a thread of its own, and reads the stack of the loop's."""

    @life.phase("busy", hangs_after_s=0.05)
    async def hold_the_loop() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while "hold_the_loop" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251  # what this test is about

    with caplog.at_level(logging.WARNING, "isolation_monitor"):
        await life.astart()

    assert "start-up phase 'busy' hangs" in caplog.text
    assert "has not come back to the event loop" in caplog.text


async def test_blocks_before_and_beside_the_start_are_phases_and_readiness_waits_for_them(life: Lifecycle) -> None:
    with life.phase("settings"):
        assert life.state == "starting"
    late = life.phase("late", after=["settings"])
    starting = asyncio.create_task(life.astart())
    await asyncio.sleep(0)

    assert not life.is_ready
    async with late:
        pass
    await starting
    await life.reached("late")

    assert life.is_ready
    with pytest.raises(LifecycleError, match="comes too late"):
        life.phase("more")
    with pytest.raises(LifecycleError, match="begins anew only after"):
        await life.astart()


def test_a_block_begins_only_after_what_it_comes_after(life: Lifecycle) -> None:
    life.phase("database")(lambda: None)

    with pytest.raises(LifecycleError, match="'tables' begins before database"), life.phase("tables", after=["database"]):
        pass


async def test_nothing_hangs_any_more_in_a_start_that_has_failed(
    make_monitor: Callable[..., IsolationMonitor], samples: Callable[..., float]
) -> None:
    """StartupPhaseHanging would page on for as long as a process lives that goes on without."""
    monitor = make_monitor(startup_hang_s=0.05, lifecycle_signals="off")
    life, told = monitor.lifecycle, asyncio.Event()
    life.phase("never run")

    @life.phase("fails")
    async def fails() -> None:
        await told.wait()
        raise OSError("away")

    starting = asyncio.create_task(life.astart())
    async with asyncio.timeout(PATIENCE_S):
        while not samples(monitor, "isolation_startup_phase_hanging", isolation_phase="never run"):  # noqa: ASYNC110  # told by a thread
            await asyncio.sleep(0.02)
    told.set()
    with pytest.raises(OSError, match="away"):
        await starting

    assert samples(monitor, "isolation_startup_phase_hanging", isolation_phase="never run") == 0


async def test_a_block_that_fails_fails_the_start(life: Lifecycle) -> None:
    with pytest.raises(ValueError, match="bad"):
        async with life.phase("settings"):
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        await life.astart()

    assert life.state == "failed"


def test_a_script_starts_without_a_loop_and_runs_plain_functions_at_once(life: Lifecycle) -> None:
    together = threading.Barrier(2, timeout=PATIENCE_S)
    life.phase("one")(together.wait)
    life.phase("two")(together.wait)

    with life:
        assert life.is_ready

    assert life.state == "stopped"


def test_a_script_with_async_phases_is_told_what_to_use(life: Lifecycle) -> None:
    @life.phase("database")
    async def database() -> None: ...

    with pytest.raises(LifecycleError, match="async with"):
        life.start()


async def test_a_stopped_application_can_start_again(life: Lifecycle) -> None:
    """Tests enter the lifespan of one application many times."""
    starts: list[int] = []
    life.phase("count", in_thread=False)(lambda: starts.append(1))
    for _ in range(3):
        async with life.phase("block"):
            pass
        async with life:
            assert life.is_ready
        assert not life.is_ready

    assert len(starts) == 3


async def test_nothing_declared_is_nothing_done(life: Lifecycle) -> None:
    assert await life.aclose() is None
    assert life.patches == []
    assert not life.is_declared
