"""The rules of the detector, on real requests, real tasks and a real housekeeper; the pool is played by the test."""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import SCOPE_KEY, RequestContext
from isolation_monitor.telemetry.detectors import session_leak
from isolation_monitor.telemetry.stacks import capture

LIMIT_S = 20.0


class Held:
    """What an application holds while its connection is out."""

    def __init__(self) -> None:
        self.is_valid = True


class Pause:
    """Awaited, it hands control back to whoever drives the coroutine by hand."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Requests:
    """Requests of the real middleware, begun and ended when the test says, in the test's own task and context."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor
        self.leaks = monitor.leaks
        self._app = monitor.instrument(self._until_told)
        self._running: dict[RequestContext, Coroutine[Any, Any, None]] = {}

    def begin(self, user: str = "ann") -> RequestContext:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"authorization", f"Bearer {user}".encode())]}
        running = self._app(scope, self._nothing, self._nothing)
        running.send(None)
        request: RequestContext = scope[SCOPE_KEY]  # type: ignore[assignment]  # the middleware put it there
        self._running[request] = running
        return request

    def end(self, request: RequestContext) -> None:
        with pytest.raises(StopIteration):
            self._running.pop(request).send(None)

    def close(self) -> None:
        for running in self._running.values():
            running.close()

    @staticmethod
    async def _until_told(*_: Any) -> None:
        await Pause()

    @staticmethod
    async def _nothing(*_: Any) -> Any:
        return None

    def take(self, key: int, held: Held | None = None) -> None:
        self.leaks.checked_out(key, "db", capture(1), weakref.ref(held) if held is not None else None)


@pytest.fixture
def requests(make_monitor: Callable[..., IsolationMonitor]) -> Iterator[Requests]:
    requests = Requests(make_monitor(leak_grace_s=0.05))
    yield requests
    requests.close()


async def eventually(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


async def judged(requests: Requests) -> None:
    """Let every deadline set so far pass: jobs run in the order of their time."""
    done: list[bool] = []
    requests.monitor.housekeeper.after(0.1, lambda: done.append(True))
    await eventually(lambda: done, "the housekeeper's next job")


def leaked(requests: Requests) -> float:
    return sum(requests.monitor.registry.value(names.SESSION_LEAKS, arm=arm) for arm in names.ARMS)


def retracted(requests: Requests) -> float:
    return sum(requests.monitor.registry.value(names.SESSION_LEAKS_RETRACTED, arm=arm) for arm in names.ARMS)


def checks(requests: Requests, result: str) -> float:
    return requests.monitor.registry.value(names.CHECKS, detector="session_leak", result=result)


async def test_a_connection_given_back_in_time_is_one_passed_check(requests: Requests) -> None:
    request = requests.begin()
    requests.take(1)
    assert requests.leaks.checked_in(1) is not None
    requests.end(request)

    await judged(requests)

    assert (checks(requests, "pass"), checks(requests, "violation")) == (1, 0)
    assert leaked(requests) == 0


async def test_a_connection_still_out_after_the_grace_time_is_a_leak_with_the_line_that_took_it(requests: Requests) -> None:
    request = requests.begin("ann")
    held = Held()
    requests.take(1, held)
    requests.end(request)

    await eventually(requests.monitor.violations, "the leak is reported")

    violation = requests.monitor.violations()[0]
    assert (violation.kind, violation.grade, violation.victim) == ("session_leak", "hygiene", None)
    assert violation.resource.type == "db_connection"
    assert violation.offender is not None
    assert violation.offender.principal == requests.monitor.principals.named("ann").hash
    assert any("test_session_leak.py" in line for line in violation.offender.stack)
    assert (leaked(requests), checks(requests, "violation")) == (1, 1)
    assert not request.violated, "a leak is hygiene: the score stands"


async def test_nothing_is_reported_before_the_grace_time(make_monitor: Callable[..., IsolationMonitor]) -> None:
    requests = Requests(make_monitor(leak_grace_s=3600))
    request = requests.begin()
    requests.take(1)
    requests.end(request)

    await judged(requests)

    assert not requests.monitor.violations()


async def test_a_leak_that_comes_back_later_is_retracted_once(requests: Requests) -> None:
    request = requests.begin()
    held = Held()
    requests.take(1, held)
    requests.end(request)
    await eventually(requests.monitor.violations, "the leak is reported")

    requests.leaks.checked_in(1)
    requests.leaks.checked_in(1)

    assert (leaked(requests), retracted(requests)) == (1, 1)
    assert checks(requests, "pass") == 0


async def test_each_leaked_connection_of_a_request_counts(requests: Requests) -> None:
    request = requests.begin()
    for key in (1, 2, 3):
        requests.take(key)
    requests.leaks.checked_in(2)
    requests.end(request)

    await eventually(lambda: len(requests.monitor.violations()) == 2, "both leaks are reported")

    assert checks(requests, "pass") == 1


async def test_connections_outside_any_request_are_counted_but_never_judged(requests: Requests) -> None:
    contextvars.Context().run(requests.take, 1)

    await judged(requests)

    assert requests.leaks.out_of("db") == 1
    assert not requests.monitor.violations()
    assert (checks(requests, "pass"), checks(requests, "violation")) == (0, 0)


async def test_a_child_task_that_still_works_with_its_connection_is_no_leak(requests: Requests) -> None:
    request = requests.begin()
    finish = asyncio.Event()
    taken = asyncio.Event()

    async def work() -> None:
        requests.take(1)
        taken.set()
        await finish.wait()
        requests.leaks.checked_in(1)

    task = asyncio.create_task(work())
    await taken.wait()
    requests.end(request)
    await judged(requests)
    await judged(requests)

    assert not requests.monitor.violations()
    finish.set()
    await task
    assert checks(requests, "pass") == 1


async def test_a_child_task_that_ends_without_giving_back_is_a_leak(requests: Requests) -> None:
    request = requests.begin()
    finish = asyncio.Event()
    taken = asyncio.Event()
    held = Held()

    async def work() -> None:
        requests.take(1, held)
        taken.set()
        await finish.wait()

    task = asyncio.create_task(work())
    await taken.wait()
    requests.end(request)
    await judged(requests)
    assert not requests.monitor.violations()

    finish.set()
    await task

    await eventually(requests.monitor.violations, "the leak is reported")


async def test_a_child_task_has_a_minute_and_no_more(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_leak, "TASK_WAIT_S", 0.2)
    request = requests.begin()
    finish = asyncio.Event()
    taken = asyncio.Event()

    async def work() -> None:
        requests.take(1)
        taken.set()
        await finish.wait()

    task = asyncio.create_task(work())
    await taken.wait()
    requests.end(request)

    await eventually(requests.monitor.violations, "the leak is reported while the task runs")

    assert requests.monitor.violations()[0].resource.detail["task_is_running"] is True
    finish.set()
    await task


async def test_the_requests_own_task_is_not_waited_for(requests: Requests) -> None:
    """A WebSocket's task lives on after the message that is judged; its leak must not wait for it."""
    request = requests.begin()
    requests.take(1)
    requests.end(request)

    await eventually(requests.monitor.violations, "the leak is reported")


async def test_work_after_the_requests_end_is_judged_when_its_task_ends(requests: Requests) -> None:
    request = requests.begin()
    finish = asyncio.Event()
    start = asyncio.Event()
    taken = asyncio.Event()
    held = Held()

    async def work() -> None:
        await start.wait()
        requests.take(1)
        requests.leaks.checked_in(1)
        requests.take(2, held)
        taken.set()
        await finish.wait()

    task = asyncio.create_task(work())
    requests.end(request)
    start.set()
    await taken.wait()
    await judged(requests)
    await judged(requests)
    assert not requests.monitor.violations()

    finish.set()
    await task

    await eventually(requests.monitor.violations, "the leak is reported")
    assert (checks(requests, "pass"), checks(requests, "violation")) == (1, 1)


async def test_a_connection_closed_without_an_event_is_no_leak(requests: Requests) -> None:
    """The pool's own handle has the last word: an event that we never got must not accuse anybody."""
    request = requests.begin()
    held = Held()
    requests.take(1, held)
    requests.end(request)
    held.is_valid = False

    await judged(requests)

    assert not requests.monitor.violations()
    assert checks(requests, "pass") == 1


async def test_a_dropped_session_that_the_collector_destroyed_is_a_leak_and_stays_one(requests: Requests) -> None:
    request = requests.begin()
    held = Held()
    requests.take(1, held)
    del held
    requests.leaks.detached(1, 99)
    requests.leaks.checked_in(99)
    requests.end(request)

    await eventually(requests.monitor.violations, "the leak is reported")

    assert requests.monitor.violations()[0].resource.detail["state"] == "reaped"
    assert retracted(requests) == 0


async def test_a_deadline_amid_a_garbage_collection_waits_for_what_the_finalizer_says(requests: Requests) -> None:
    """The weak reference is dead already, the finalizer has not run yet: no time to call it given back."""
    request = requests.begin()
    held = Held()
    requests.take(1, held)
    requests.end(request)
    checkout = requests.leaks._out[1]
    del held
    await eventually(lambda: checkout.is_forsaken, "the deadline finds the handle dead")

    requests.leaks.detached(1, 99)

    await eventually(requests.monitor.violations, "the leak is reported")
    assert requests.monitor.violations()[0].resource.detail["state"] == "reaped"


async def test_a_detached_connection_is_owed_until_it_is_closed(requests: Requests) -> None:
    request = requests.begin()
    kept, closed = Held(), Held()
    requests.take(1, kept)
    requests.take(2, closed)
    requests.leaks.detached(1, 101)
    requests.leaks.detached(2, 102)
    # The pool's slots are used again at once; their next holders are not mistaken for the detached ones.
    requests.take(1)
    requests.leaks.checked_in(1)
    requests.leaks.checked_in(102)
    requests.end(request)

    await eventually(requests.monitor.violations, "the leak is reported")
    await judged(requests)

    assert [v.resource.detail["state"] for v in requests.monitor.violations()] == ["detached"]
    requests.leaks.checked_in(101)
    assert retracted(requests) == 1


async def test_a_request_starved_by_another_principals_leak_has_not_contained_it(requests: Requests) -> None:
    request = requests.begin("ann")
    held = Held()
    requests.take(1, held)
    requests.end(request)
    await eventually(requests.monitor.violations, "the leak is reported")

    starved = requests.begin("bob")
    requests.leaks.starved("db")
    same_user = requests.begin("ann")
    requests.leaks.starved("db")
    other_pool = requests.begin("bob")
    requests.leaks.starved("another")
    fed = requests.begin("bob")

    assert requests.leaks.blocks(starved)
    assert not any(requests.leaks.blocks(one) for one in (same_user, other_pool, fed))
    requests.leaks.checked_in(1)
    late = requests.begin("bob")
    requests.leaks.starved("db")
    assert not requests.leaks.blocks(late), "what came back holds nothing any more"
