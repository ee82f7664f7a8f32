"""What is remembered of requests and connections that are over: little, and nothing of the host's."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry import ledger as module
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.violations import Resource, Violation, side_of
from tests.telemetry.acting import Acting
from tests.telemetry.conftest import Socket


@pytest.fixture
def acting(monitor: IsolationMonitor) -> Acting:
    return Acting(monitor)


def found(request: RequestContext, kind: str = names.SHARED_STATE, grade: str = "reachable") -> Violation:
    return Violation(
        kind=kind, grade=grade, summary="x", resource=Resource("location", "shop.CACHE"), victim=None, offender=side_of(request)
    )


def test_what_was_found_on_requests_of_long_ago_is_let_go(acting: Acting) -> None:
    ended = []
    open_one = acting.request("bob")
    acting.monitor.ledger.report(found(open_one), open_one)
    for _ in range(module.NOTED_REQUESTS * 3):
        request = acting.request("ann")
        acting.monitor.ledger.report(found(request), request)
        request.finished = True
        ended.append(request)

    assert len([request for request in ended if request.violations]) <= module.NOTED_REQUESTS
    assert ended[-1].violations
    assert open_one.violations, "it may still be refused its answer, or have made a crossing possible"


def test_one_request_remembers_so_much_and_what_is_grave(acting: Acting) -> None:
    request = acting.request("ann")
    for n in range(module.NOTED_EACH * 3):
        grave = n == module.NOTED_EACH * 2
        kind, grade = (names.SHARED_STATE, "reachable") if grave else (names.STARVATION, "hygiene")
        acting.monitor.ledger.report(found(request, kind, grade), request)

    assert request.violations is not None
    assert len(request.violations) == module.NOTED_EACH
    assert [one.grade for one in request.violations].count("reachable") == 1


async def test_a_closed_connection_holds_nothing_of_the_hosts(monitor: IsolationMonitor) -> None:
    """Ids and runs that are remembered know the connection they came over, long after it."""

    class Held:
        pass

    references: list[weakref.ref[Held]] = []
    requests: list[RequestContext] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        mine = scope["state"] = Held()
        references.append(weakref.ref(mine))
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        requests.append(CURRENT.get())  # type: ignore[arg-type]  # a message has one
        await send({"type": "websocket.close", "code": 1000})

    one = await Socket(monitor.instrument(serve), "ann").accepted()
    one.say("hello")
    await one.leave()
    # The client of these tests knows its task, which knows the scope.
    del one.task
    gc.collect()

    (request,) = requests
    assert request.connection is not None
    assert request.connection.scope["path"] == "/ws"
    assert references[0]() is None
