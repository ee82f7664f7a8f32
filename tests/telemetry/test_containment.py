"""The graph of failures, fed as the middleware feeds it: `raised` in the `except` clause, `failed` at the request's end."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry import containment as module
from isolation_monitor.telemetry.containment import Containment
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.detectors.starvation import Holder, Holding


class Failing:
    """Requests of named principals that fail as the test says."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor
        self.containment: Containment = monitor.detection.containment

    def request(self, user: str | None) -> RequestContext:
        scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": []}
        return RequestContext(self.monitor.principals.named(user) if user else None, scope, None, None)

    def fails(self, user: str | None, error: BaseException | None = None, status: int = 500) -> str | None:
        return self.fails_in(self.request(user), error, status)

    def fails_in(self, request: RequestContext, error: BaseException | None = None, status: int = 500) -> str | None:
        request.status = status
        if error is not None:
            self.containment.raised(request, error)
        return self.containment.failed(request)

    async def run(self, request: RequestContext, act: Callable[[], Awaitable[Any]]) -> str | None:
        """Run `act` as the request's task does; return how its failure was counted."""
        CURRENT.set(request)
        try:
            await act()
        except BaseException as error:
            return self.fails_in(request, error)
        return "no failure"

    def counted(self, outcome: str) -> float:
        return self.monitor.registry.value(names.FAILURES, outcome=outcome, arm="none")


@pytest.fixture
def failing(monitor: IsolationMonitor) -> Iterator[Failing]:
    yield Failing(monitor)
    # The tests play requests in the test's own context, which the next test would inherit.
    CURRENT.set(None)


def caught(act: Callable[[], Any]) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("it did not fail")


def test_a_failure_of_its_own_is_contained(failing: Failing) -> None:
    assert failing.fails("ann", ValueError("a")) == "contained"
    assert failing.fails("bob", ValueError("b")) == "contained"
    assert failing.fails("cid") == "contained"

    assert (failing.counted("contained"), failing.counted("escaped")) == (3, 0)
    assert list(failing.containment.escapes) == []


def test_one_exception_object_in_requests_of_two_principals_is_an_escape(failing: Failing) -> None:
    """A shared future that failed: everybody who waits for it gets the same exception object."""
    shared = ValueError("one connection for all broke")

    assert failing.fails("ann", shared) == "contained"
    assert failing.fails("ann", shared) == "contained"
    assert failing.fails("bob", shared) == "escaped"
    assert failing.containment.escapes[-1].edge == "exception"
    (violation,) = failing.monitor.violations()
    assert (violation.kind, violation.grade, violation.resource.name) == ("starvation", "hygiene", "exception")
    assert violation.offender is not None
    assert violation.offender.principal == failing.monitor.principals.named("ann").hash


@pytest.mark.parametrize("link", ["cause", "context", "group"])
def test_an_exception_that_another_principals_failure_caused_is_an_escape(failing: Failing, link: str) -> None:
    root = ValueError("the root")
    failing.fails("ann", root)

    def raise_it() -> None:
        if link == "group":
            raise BaseExceptionGroup("several", [KeyError("other"), root])
        try:
            raise root
        except ValueError:
            if link == "cause":
                raise RuntimeError("wrapped") from root
            raise RuntimeError("wrapped")  # noqa: B904  # its context is what is tested

    assert failing.fails("bob", caught(raise_it)) == "escaped"


def test_beyond_the_window_nothing_hangs_together(failing: Failing) -> None:
    shared = ValueError("x")
    failing.fails("ann", shared)
    later = time.monotonic() + module.WINDOW_S + 1
    failing.containment._known._clock = lambda: later

    assert failing.fails("bob", shared) == "contained"


async def test_a_task_group_shared_by_requests_cancels_the_others(failing: Failing) -> None:
    """One group for the whole application: the failure of one user's task aborts everybody's."""
    failing.monitor.instrument(lambda scope, receive, send: None)
    group = asyncio.TaskGroup()
    outcomes: dict[str, str | None] = {}

    async def fail() -> None:
        raise ValueError("ann's")

    async def request_of(user: str, act: Callable[[], Awaitable[Any]]) -> None:
        async def work() -> None:
            await group.create_task(act())  # type: ignore[arg-type]  # a coroutine

        outcomes[user] = await failing.run(failing.request(user), work)

    async def serve() -> None:
        async with group:
            bob = asyncio.create_task(request_of("bob", lambda: asyncio.sleep(60)))
            await asyncio.sleep(0.01)
            ann = asyncio.create_task(request_of("ann", fail))
            await asyncio.wait([ann, bob])

    with pytest.raises(ExceptionGroup):
        await serve()

    assert outcomes == {"ann": "contained", "bob": "escaped"}
    assert failing.containment.escapes[-1].edge == "cancelled"


async def test_a_request_whose_client_left_is_no_failure(failing: Failing) -> None:
    running = asyncio.create_task(failing.run(failing.request("ann"), lambda: asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    running.cancel()

    assert await running is None
    assert sum(failing.counted(outcome) for outcome in names.FAILURE_OUTCOMES) == 0


def test_a_failure_after_a_wait_in_vain_for_anothers_lock_is_an_escape(failing: Failing) -> None:
    starvation = failing.monitor.detection.starvation
    ann, bob = failing.request("ann"), failing.request("bob")
    holding = Holding("lock")
    holding.holders.append(Holder(ann, (), 0.0))
    CURRENT.set(bob)
    wait = starvation.begun(holding, ())
    assert wait is not None
    wait.since -= 0.5
    starvation.ended(wait, in_vain=True)

    assert failing.fails_in(bob, TimeoutError()) == "escaped"
    assert failing.containment.escapes[-1].root is ann


def test_a_time_out_while_anothers_code_held_the_loop_is_an_escape(failing: Failing) -> None:
    stalls = failing.monitor.detection.loop_stall
    ann, bob = failing.request("ann"), failing.request("bob")
    bob.started = time.perf_counter() - 1.0
    stalls.stalled(0.9, ann, ())

    assert failing.fails_in(bob, TimeoutError()) == "escaped"
    assert failing.containment.escapes[-1].edge == "stall"


def test_a_time_out_much_longer_than_the_stall_has_another_reason(failing: Failing) -> None:
    bob = failing.request("bob")
    bob.started = time.perf_counter() - 30.0
    failing.monitor.detection.loop_stall.stalled(0.9, failing.request("ann"), ())

    assert failing.fails_in(bob, TimeoutError()) == "contained"


def test_a_pool_that_one_principal_holds_alone_starves_the_others(failing: Failing) -> None:
    leaks = failing.monitor.leaks
    ann, bob = failing.request("ann"), failing.request("bob")
    CURRENT.set(ann)
    leaks.checked_out(1, "db")
    CURRENT.set(bob)
    leaks.starved("db")

    assert failing.fails_in(bob, TimeoutError("pool")) == "escaped"
    (violation,) = failing.monitor.violations()
    assert (violation.kind, violation.resource.type) == ("starvation", "db_connection")


def test_a_pool_held_by_several_is_too_small_and_nobodys_doing(failing: Failing) -> None:
    leaks = failing.monitor.leaks
    for key, user in enumerate(("ann", "cid")):
        CURRENT.set(failing.request(user))
        leaks.checked_out(key, "db")
    bob = failing.request("bob")
    CURRENT.set(bob)
    leaks.starved("db")

    assert failing.fails_in(bob, TimeoutError("pool")) == "contained"
    assert failing.monitor.violations() == []


def refused() -> BaseException:
    return caught(lambda: socket.create_connection(("127.0.0.1", 1), 0.5))


def test_an_outside_dependency_that_is_away_is_a_common_cause_from_the_third_principal_on(failing: Failing) -> None:
    outcomes = [failing.fails(user, refused()) for user in ("ann", "ann", "bob", "cid", "dan")]

    assert outcomes == ["contained", "contained", "contained", "common_cause", "common_cause"]


def test_bad_gateway_answers_of_one_route_are_a_common_cause(failing: Failing) -> None:
    assert [failing.fails(user, status=502) for user in ("ann", "bob", "cid")][-1] == "common_cause"
    assert [failing.fails(user, status=503) for user in ("ann", "bob", "cid")][-1] == "contained"


def test_a_library_that_speaks_of_a_closed_connection_itself_is_no_outside_cause(failing: Failing) -> None:
    def closed() -> BaseException:
        return caught(lambda: (_ for _ in ()).throw(ConnectionResetError("Cannot write to closing transport")))

    assert {failing.fails(user, closed()) for user in ("ann", "bob", "cid", "dan")} == {"contained"}


def test_the_applications_own_errors_are_never_a_common_cause(failing: Failing) -> None:
    """Three principals that hit one bug of the application: each failure is its own, and contained."""

    def bug() -> None:
        raise OSError(errno.ENOSPC, "disk full")

    assert {failing.fails(user, caught(bug)) for user in ("ann", "bob", "cid", "dan")} == {"contained"}


def test_the_blast_radius_is_the_number_of_principals_that_hang_together(failing: Failing) -> None:
    shared = ValueError("x")
    for user in ("ann", "bob", "cid"):
        failing.fails(user, shared)

    assert failing.monitor.registry.histogram(names.FAILURE_PRINCIPALS).sum() == 1 + 2 + 3


def test_a_failure_that_reaches_two_others_is_one_cascade(failing: Failing) -> None:
    shared = ValueError("x")
    cascades = []
    for user in ("ann", "bob", "cid", "dan"):
        failing.fails(user, shared)
        cascades.append(failing.monitor.registry.value(names.CASCADES))

    assert cascades == [0, 0, 1, 1]


def test_requests_without_a_principal_are_never_edges(failing: Failing) -> None:
    shared = ValueError("x")

    assert [failing.fails(None, shared), failing.fails("ann", shared)] == ["contained", "contained"]


def test_exceptions_and_what_their_frames_hold_are_let_go(failing: Failing) -> None:
    class Held:
        pass

    references: list[weakref.ref[Held]] = []

    def fail() -> None:
        mine = Held()
        references.append(weakref.ref(mine))
        raise ValueError(mine)

    failing.fails("ann", caught(fail))
    gc.collect()

    assert references[0]() is None


def test_every_table_is_bounded(failing: Failing) -> None:
    for n in range(module.REMEMBERED + 100):
        failing.fails(f"user{n}", ConnectionRefusedError(errno.ECONNREFUSED, str(n)))
        failing.containment.aborted(failing.request("root"), [failing.request(f"user{n}")])

    tables = [failing.containment._known, failing.containment._raised, failing.containment._aborted, failing.containment._common]
    assert all(len(table) <= module.REMEMBERED for table in tables)


def test_an_error_of_ours_is_swallowed_and_counted(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(failing.containment, "_count", broken)

    assert failing.fails("ann", ValueError("x")) is None
    assert failing.monitor.registry.value(names.MONITOR_ERRORS, hook="asyncio") == 1


def test_an_exception_that_fights_back_is_read_without_its_own_code(failing: Failing) -> None:
    class Hostile(ValueError):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("do not touch")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("do not compare")

        __hash__ = None  # type: ignore[assignment]  # what makes it hostile

    assert failing.fails("ann", Hostile()) == "contained"
    assert failing.monitor.registry.value(names.MONITOR_ERRORS, hook="asyncio") == 0
