"""Sources that raise, hang, lie or are gone: an answer comes all the same, in time, and each failure is counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from isolation_monitor.telemetry import ConflictingIdError, IsolationMonitor, UnresolvedIdError, names
from isolation_monitor.telemetry.resolution import MemoryRegistry
from isolation_monitor.telemetry.resolution.circuit import FAILURES, LONGEST_OPEN_S, OPEN_S, Circuit
from isolation_monitor.telemetry.resolution.sql_registry import SqlRegistry
from isolation_monitor.telemetry.resolution.threads import LIMIT, Threads
from tests.real_parts.postgres import Postgres, postgres


def answers(monitor: IsolationMonitor, source: str, answer: str) -> float:
    return monitor.registry.value(names.ID_SOURCE_ANSWERS, source=source, answer=answer)


@pytest.fixture
def impatient(make_monitor: Callable[..., IsolationMonitor]) -> IsolationMonitor:
    return make_monitor(resolution_timeout_s=0.05, resolution_verify_every=1)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end of the test, so that threads which hang on it end."""
    event = threading.Event()
    yield event
    event.set()


async def raises(run_id: str) -> str:
    raise RuntimeError(f"the users of {run_id}")


async def hangs(run_id: str) -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def hangs_and_does_not_listen(run_id: str) -> str:
    """Swallows its cancellation, as a careless `except BaseException` does."""
    for _ in range(20):
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return "t_late"


@pytest.mark.parametrize(("orchestrator", "answer"), [(raises, "failed"), (hangs, "timeout"), (hangs_and_does_not_listen, "timeout")])
async def test_an_orchestrator_that_is_down_costs_its_time_and_the_next_source_is_asked(
    impatient: IsolationMonitor, orchestrator: Any, answer: str
) -> None:
    ids = impatient.resolution(orchestrator=orchestrator)

    assert (await ids.resolve("thread_1_run_1")).source == "pattern"
    with pytest.raises(UnresolvedIdError) as caught:
        await ids.resolve("r1")

    assert answers(impatient, "orchestrator", answer) == 2
    assert caught.value.said["orchestrator"].startswith(answer)
    # What an exception says may name users: its type is enough.
    assert "users of" not in str(caught.value)


@pytest.mark.parametrize("call", [lambda event: event.wait(), lambda event: time.sleep(0) or event.wait()])
async def test_a_plain_function_that_blocks_does_not_block_the_loop(
    impatient: IsolationMonitor, released: threading.Event, call: Callable[[threading.Event], Any]
) -> None:
    ids = impatient.resolution(orchestrator=lambda run_id: call(released))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    living = asyncio.create_task(others())
    assert (await ids.resolve("thread_1_run_1")).source == "pattern"
    living.cancel()

    assert turns > 10
    assert answers(impatient, "orchestrator", "timeout") == 1


@pytest.mark.parametrize("said", [7, "", "a\nb", ("t_1", 7), ("t_1", "ana", "x"), ["t_1"], {"thread": "t_1"}, "x" * 201, b"t_1"])
async def test_an_answer_that_is_no_thread_is_no_answer(impatient: IsolationMonitor, said: Any) -> None:
    ids = impatient.resolution(orchestrator=lambda run_id: said)

    with pytest.raises(UnresolvedIdError):
        await ids.resolve("r1")
    assert answers(impatient, "orchestrator", "invalid") == 1


async def test_an_orchestrator_that_hangs_is_left_alone_after_a_few_times(impatient: IsolationMonitor) -> None:
    asked = 0

    async def orchestrator(run_id: str) -> str:
        nonlocal asked
        asked += 1
        return await hangs(run_id)

    ids = impatient.resolution(orchestrator=orchestrator)
    for n in range(FAILURES + 20):
        await ids.resolve(f"thread_1_run_{n}")
    ids.tick()

    assert asked == FAILURES
    assert answers(impatient, "orchestrator", "skipped") == 20
    assert impatient.registry.value(names.ID_CIRCUIT_OPEN, source="orchestrator") == 1
    assert impatient.registry.value(names.ID_RESOLUTIONS, source="pattern") == FAILURES + 20


async def test_an_orchestrator_that_comes_back_is_asked_again(impatient: IsolationMonitor) -> None:
    is_down = True

    async def orchestrator(run_id: str) -> str:
        if is_down:
            raise ConnectionError
        return "t_1"

    ids = impatient.resolution(orchestrator=orchestrator)
    for _ in range(FAILURES):
        with pytest.raises(UnresolvedIdError):
            await ids.resolve("r1")
    source = ids._parts.orchestrator
    assert source is not None
    is_down = False
    with pytest.raises(UnresolvedIdError):
        await ids.resolve("r1")

    now = time.monotonic()
    source.circuit._clock = lambda: now + OPEN_S + 1

    assert (await ids.resolve("r1")).source == "orchestrator"
    assert not source.circuit.is_open


async def test_a_caller_that_goes_away_takes_his_question_with_him(monitor: IsolationMonitor) -> None:
    cancelled = asyncio.Event()
    asked = asyncio.Event()

    async def orchestrator(run_id: str) -> str:
        asked.set()
        try:
            return await hangs(run_id)
        finally:
            cancelled.set()

    ids = monitor.resolution(orchestrator=orchestrator)
    asking = asyncio.create_task(ids.resolve("r1"))
    await asked.wait()
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(cancelled.wait(), 10)
    assert monitor.violations() == []


async def test_a_lying_orchestrator_is_found_out_by_the_verification_and_then_nobody_is_answered(impatient: IsolationMonitor) -> None:
    """The registry knows the run. The orchestrator, were it asked, would name another user's thread."""
    told = {"r1": ("t_2", "ben")}

    async def orchestrator(run_id: str) -> Any:
        return told.get(run_id)

    ids = impatient.resolution(orchestrator=orchestrator)
    await ids.register("r1", "t_1", owner="ana")

    assert (await ids.resolve("r1", asker="ana")).thread_id == "t_1"
    assert ids._verifying is not None
    await ids._verifying

    [violation] = impatient.violations()
    assert (violation.grade, [c["source"] for c in violation.resource.detail["claims"]]) == ("reachable", ["registry", "orchestrator"])
    for _ in range(2):
        with pytest.raises(ConflictingIdError):
            await ids.resolve("r1", asker="ana")
    # Corrected, both say the same again.
    told["r1"] = ("t_1", "ana")
    assert (await ids.resolve("r1", asker="ana")).thread_id == "t_1"


async def test_the_verification_leaves_no_request_waiting(make_monitor: Callable[..., IsolationMonitor]) -> None:
    monitor = make_monitor(resolution_timeout_s=30, resolution_verify_every=1)
    ids = monitor.resolution(orchestrator=hangs)
    run_id = await ids.create("t_1", owner="ana")

    for _ in range(5):
        assert (await ids.resolve(run_id, asker="ana")).source == "registry"

    assert ids._verifying is not None
    assert not ids._verifying.done()
    ids._verifying.cancel()


def test_on_a_thread_that_runs_the_loop_nothing_is_waited_for(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution(orchestrator=lambda run_id: "t_1")

    async def careless() -> str:
        with pytest.raises(UnresolvedIdError) as caught:
            ids.resolve_now("r1")
        return caught.value.said["orchestrator"]

    assert "await the resolution" in asyncio.run(careless())


async def test_a_thread_of_the_service_asks_an_async_source_on_the_serving_loop(monitor: IsolationMonitor) -> None:
    loops = []

    async def orchestrator(run_id: str) -> str:
        loops.append(asyncio.get_running_loop())
        return "t_1"

    ids = monitor.resolution(orchestrator=orchestrator)
    with pytest.raises(UnresolvedIdError, match="no event loop serves"):
        await asyncio.to_thread(ids.resolve_now, "r1")
    monitor.serving()

    resolved = await asyncio.to_thread(ids.resolve_now, "r1")

    assert resolved.source == "orchestrator"
    assert loops == [asyncio.get_running_loop()]


async def test_a_source_that_hangs_does_not_use_up_the_threads_of_the_next(
    make_monitor: Callable[..., IsolationMonitor], released: threading.Event
) -> None:
    """Forty users ask at once while the orchestrator hangs: the connection manager answers them all."""
    monitor = make_monitor(resolution_timeout_s=2)
    ids = monitor.resolution(orchestrator=lambda run_id: released.wait(), connections=lambda run_id: ("t_1", "ana"))

    resolved = await asyncio.gather(*(ids.resolve(f"r{n}", asker="ana") for n in range(40)))

    assert {one.source for one in resolved} == {"connection"}


async def test_what_breaks_in_the_monitor_is_counted_and_the_documented_error_comes_all_the_same(
    monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(text: str) -> str:
        raise OSError("the key cannot be read")

    ids = monitor.resolution()
    await ids.register("r1", "t_1", owner="ana")
    monkeypatch.setattr(monitor.principals, "hash", broken)

    with pytest.raises(UnresolvedIdError):
        await ids.resolve("nobodys")
    with pytest.raises(ConflictingIdError):
        await ids.register("r1", "t_2", owner="ben")

    assert monitor.registry.value(names.MONITOR_ERRORS, hook="resolution") == 2


def test_a_probe_that_is_interrupted_leaves_no_circuit_open_for_ever(impatient: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = impatient.resolution(orchestrator=lambda run_id: "t_1")
    source = ids._parts.orchestrator
    assert source is not None
    for _ in range(FAILURES):
        source.circuit.failed()
    source.circuit._clock = lambda: time.monotonic() + 2 * OPEN_S

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("concurrent.futures.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ids.resolve_now("r1")

    assert ids.resolve_now("r1").source == "orchestrator"


# --- the registry's database ------------------------------------------------------------------------------------------


@pytest.fixture
async def gone(request: pytest.FixtureRequest) -> AsyncIterator[tuple[SqlRegistry, Postgres]]:
    """A registry on a PostgreSQL that is taken away during the test."""
    with postgres() as running:
        url = running.create("runs")
        engine: Any
        if request.param == "sync":
            engine = create_engine(url.replace("+asyncpg", "+psycopg"))
            registry = SqlRegistry(engine)
            registry.create_table()
            yield registry, running
            engine.dispose()
        else:
            engine = create_async_engine(url)
            registry = SqlRegistry(engine)
            await registry.create_table()
            yield registry, running
            await engine.dispose()


@pytest.mark.parametrize("gone", ["sync", "async"], indirect=True)
async def test_with_the_registrys_database_gone_runs_are_made_and_resolved_all_the_same(
    make_monitor: Callable[..., IsolationMonitor], gone: tuple[SqlRegistry, Postgres]
) -> None:
    registry, cluster = gone
    monitor = make_monitor(resolution_timeout_s=5)
    ids = monitor.resolution(registry=registry, orchestrator={"r1": ("t_1", "ana")}.get)
    before = await ids.create("t_0", owner="ana")
    cluster._run("dropdb", "--force", "runs")

    made = await ids.create("t_2", owner="ana")
    sources = [(await ids.resolve(run_id, asker="ana")).source for run_id in (before, made, "r1")]

    assert sources == ["registry", "pattern", "orchestrator"]
    assert monitor.registry.value(names.ID_REGISTRATIONS_TOTAL, source="created", result="failed") == 1
    assert monitor.registry.value(names.ID_REGISTRATIONS_TOTAL, source="orchestrator", result="failed") == 1
    assert answers(monitor, "registry", "failed") == 2
    assert monitor.violations() == []


# --- circuit and threads ----------------------------------------------------------------------------------------------


def test_a_circuit_opens_after_failures_in_a_row_and_tries_ever_more_seldom() -> None:
    now = 0.0
    circuit = Circuit(lambda: now)
    for _ in range(FAILURES - 1):
        circuit.failed()
    circuit.succeeded()
    for _ in range(FAILURES):
        assert circuit.allows()
        circuit.failed()
    pauses = []

    for _ in range(8):
        pause = 0.0
        while not circuit.allows():
            now += 0.5
            pause += 0.5
        assert not circuit.allows(), "one probe at a time"
        circuit.failed()
        pauses.append(pause)

    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    assert pauses[-1] == LONGEST_OPEN_S


def test_a_probe_whose_caller_went_away_makes_room_for_another() -> None:
    now = 0.0
    circuit = Circuit(lambda: now)
    for _ in range(FAILURES):
        circuit.failed()
    now = OPEN_S

    assert circuit.allows()
    circuit.gave_up()
    assert circuit.allows()
    circuit.succeeded()
    assert not circuit.is_open


def test_calls_that_hang_use_up_a_few_threads_and_no_more(released: threading.Event) -> None:
    before = set(threading.enumerate())
    threads = Threads()

    futures = [threads.submit(released.wait) for _ in range(50)]

    assert len([one for one in set(threading.enumerate()) - before if one.name == "isolation-monitor-resolution"]) == LIMIT
    released.set()
    assert all(future.result(30) for future in futures)


async def test_many_that_ask_for_one_unknown_run_at_once_all_get_the_same(monitor: IsolationMonitor) -> None:
    async def orchestrator(run_id: str) -> Any:
        await asyncio.sleep(0)
        return ("t_1", "ana")

    ids = monitor.resolution(orchestrator=orchestrator, registry=MemoryRegistry(limit=10))

    resolved = await asyncio.gather(*(ids.resolve("r1", asker="ana") for _ in range(200)))

    assert {one.thread_id for one in resolved} == {"t_1"}
    assert monitor.violations() == []
