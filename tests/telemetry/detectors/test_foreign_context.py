"""Places that should name the principal at hand: which of them are races, and which only look like one."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from isolation_monitor.telemetry.detectors.foreign_context import BARREN_GLANCES, BARREN_SHARE
from isolation_monitor.telemetry.detectors.places import Place
from isolation_monitor.telemetry.lab import Lab

USERS = ("alice", "bobby", "carol", "david")

current_user: str | None = None
locked_user: str | None = None
last_writer: str | None = None
served_count = 0
holder: str | None = None
namespace = SimpleNamespace(user="")
local = threading.local()
default_var: ContextVar[dict[str, Any]] = ContextVar("default_var", default={})  # noqa: B039  (the bug under test)
history_var: ContextVar[list[Any]] = ContextVar("history_var", default=[])  # noqa: B039
user_var: ContextVar[str] = ContextVar("user_var")
room_var: ContextVar[Any] = ContextVar("room_var")
lock = asyncio.Lock()


class Current:
    user: str | None = None


class Room:
    def __init__(self, owner: str) -> None:
        self.owner = owner


ROOMS = {user: Room(user) for user in USERS}
SHARED_ROOM = Room("nobody")


def user_of(request: Request) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")


async def wait() -> None:
    # Long enough that requests sent together are all inside.
    for _ in range(5):
        await asyncio.sleep(0)


async def global_user(request: Request) -> JSONResponse:
    global current_user
    current_user = user_of(request)
    await wait()
    return JSONResponse({"user": current_user})


async def class_user(request: Request) -> JSONResponse:
    Current.user = user_of(request)
    await wait()
    return JSONResponse({"user": Current.user})


async def namespace_user(request: Request) -> JSONResponse:
    namespace.user = user_of(request)
    await wait()
    return JSONResponse({"user": namespace.user})


async def held_by(request: Request) -> JSONResponse:
    """Who holds the one resource is told to everybody who asks for it."""
    global holder
    if holder is None or request.query_params.get("of") == "alice":
        holder = user_of(request) if request.query_params.get("of") is None else "alice"
    await wait()
    return JSONResponse({"holder": holder})


async def thread_local_user(request: Request) -> JSONResponse:
    local.user = user_of(request)
    await wait()
    return JSONResponse({"user": local.user})


async def shared_default(request: Request) -> JSONResponse:
    default_var.get()["user"] = {"id": user_of(request)}
    await wait()
    return JSONResponse(default_var.get())


async def shared_history(request: Request) -> JSONResponse:
    history_var.get().append({"user": user_of(request)})
    await wait()
    return JSONResponse(history_var.get()[-3:])


async def singleton_in_variable(request: Request) -> JSONResponse:
    room_var.set(SHARED_ROOM)
    room_var.get().owner = user_of(request)
    await wait()
    return JSONResponse({"owner": room_var.get().owner})


async def own_variable(request: Request) -> JSONResponse:
    user_var.set(user_of(request))
    await wait()
    return JSONResponse({"user": user_var.get()})


async def shown_page(request: Request) -> JSONResponse:
    """A variable that names whose page is shown, which is often somebody else's."""
    user_var.set(request.query_params.get("of") or user_of(request))
    await wait()
    return JSONResponse({"of": user_var.get()})


async def visited_room(request: Request) -> JSONResponse:
    room_var.set(ROOMS[request.query_params.get("of") or user_of(request)])
    await wait()
    return JSONResponse({"owner": room_var.get().owner})


async def statistic(request: Request) -> JSONResponse:
    global last_writer
    last_writer = user_of(request)
    await wait()
    return JSONResponse({})


async def not_taken(request: Request) -> JSONResponse:
    """The branch that reads the global is there, and no request takes it."""
    global last_writer
    last_writer = user_of(request)
    await wait()
    return JSONResponse({"last": last_writer if request.query_params.get("of") == "nobody" else None})


async def counting(request: Request) -> JSONResponse:
    global served_count
    served_count += 1
    await wait()
    return JSONResponse({"n": served_count})


async def under_a_lock(request: Request) -> JSONResponse:
    global locked_user
    async with lock:
        locked_user = user_of(request)
        await asyncio.sleep(0)
        user = locked_user
    await wait()
    return JSONResponse({"user": user})


async def keyed_state(request: Request) -> JSONResponse:
    default_var.get().setdefault("by", {})[user_of(request)] = user_of(request)
    await wait()
    return JSONResponse({})


async def nothing(request: Request) -> JSONResponse:
    await wait()
    return JSONResponse({})


def closure_endpoint() -> Callable[[Request], Any]:
    user: str | None = None

    async def endpoint(request: Request) -> JSONResponse:
        nonlocal user
        user = user_of(request)
        await wait()
        return JSONResponse({"user": user})

    return endpoint


class ClassEndpoint(HTTPEndpoint):
    """An endpoint of which Starlette makes an object for each request."""

    async def get(self, request: Request) -> JSONResponse:
        global current_user
        current_user = user_of(request)
        await wait()
        return JSONResponse({"user": current_user})


class Resource(HTTPEndpoint):
    """Who posted last is shown to everybody, and of no matter to who posts."""

    async def post(self, request: Request) -> JSONResponse:
        global last_writer
        last_writer = user_of(request)
        await wait()
        return JSONResponse({})

    async def get(self, _request: Request) -> JSONResponse:
        await wait()
        return JSONResponse({"last": last_writer})


class LockedEndpoint(HTTPEndpoint):
    async def get(self, request: Request) -> JSONResponse:
        return await under_a_lock(request)


class HurriedEndpoint(HTTPEndpoint):
    """Nothing comes in between: what it answers is right, though others write the place before its middleware is done."""

    async def get(self, request: Request) -> JSONResponse:
        global current_user
        current_user = user_of(request)
        return JSONResponse({"user": current_user})


class CallableEndpoint:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (await global_user(Request(scope)))(scope, receive, send)


@pytest.fixture(autouse=True)
def fresh_state() -> None:
    global lock
    lock = asyncio.Lock()
    default_var.get().clear()
    history_var.get().clear()
    local.__dict__.clear()


@pytest.fixture
def drive(monitor: Any, client: Any) -> Callable[..., Any]:
    """Serve endpoints and send requests: one after another first, then all users at once."""

    async def run(*endpoints: Any, queries: tuple[str, ...] = ("",), users: tuple[str, ...] = USERS) -> Counter[str]:
        app = Starlette(routes=[Route(f"/{n}", endpoint) for n, endpoint in enumerate(endpoints)])
        calls = client(monitor.instrument(app))
        monitor.detection.answering = monitor.detection.foreign_context.judge
        monitor.detection.foreign_context.places.scan()
        for user in users:
            await calls.get("/0", user=user)
        # The code of an endpoint is read off the loop, after its first answer.
        await asyncio.to_thread(monitor.housekeeper.settle, 0.0)
        for _ in range(3):
            for query in queries:
                await asyncio.gather(*(_get(calls, f"/{n}", query, user) for user in users for n in range(len(endpoints))))
        return Counter(violation.kind for violation in monitor.ledger.recent)

    return run


async def _get(calls: Any, path: str, query: str, user: str) -> None:
    async def with_query(scope: Any, receive: Any, send: Any) -> None:
        await calls.app({**scope, "query_string": query.encode()}, receive, send)

    await type(calls)(with_query).get(path, user=user)


BUGS = {
    "module global": global_user,
    "class attribute": class_user,
    "field of a module's one object": namespace_user,
    "thread-local on the loop's thread": thread_local_user,
    "mutable default of a context variable": shared_default,
    "growing default of a context variable": shared_history,
    "one object in everybody's context variable": singleton_in_variable,
    "class-based endpoint": ClassEndpoint,
    "object that is called": CallableEndpoint(),
    "partial": functools.partial(global_user),
}


@pytest.mark.parametrize("bug", BUGS)
async def test_a_place_shared_by_all_requests_that_names_the_wrong_one_is_reported(drive, monitor, bug) -> None:
    found = await drive(BUGS[bug])

    assert found["foreign_context"] >= 1
    violation = next(v for v in monitor.ledger.recent if v.kind == "foreign_context")
    assert violation.grade == "reachable"
    assert violation.victim.principal != violation.offender.principal
    assert violation.resource.type == "context_variable"


async def test_a_variable_of_the_enclosing_function_is_a_place_too(drive) -> None:
    found = await drive(closure_endpoint())

    assert found["foreign_context"] >= 1


async def test_applications_without_a_router_are_judged_too(monitor, client) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        global current_user
        current_user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        await wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": (current_user or "").encode()})

    calls = client(monitor.instrument(app))
    monitor.detection.answering = monitor.detection.foreign_context.judge
    monitor.detection.foreign_context.places.scan()
    for user in USERS:
        await calls.get("/", user=user)
    await asyncio.gather(*(calls.get("/", user=user) for user in USERS))

    assert any(v.kind == "foreign_context" for v in monitor.ledger.recent)


async def test_what_a_middleware_writes_is_learned_from_answers_of_every_endpoint(monitor, client, monkeypatch) -> None:
    """Between two writes there may be no answer but one of an endpoint that never reads the place."""
    doors = {name: asyncio.Event() for name in ("alice", "bobby")}

    async def reads(request: Request) -> JSONResponse:
        if user_of(request) in doors and request.query_params.get("wait"):
            await doors[user_of(request)].wait()
        await wait()
        return JSONResponse({"user": namespace.user})

    async def reads_not(request: Request) -> JSONResponse:
        await doors[user_of(request)].wait()
        return JSONResponse({})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await wait()
        namespace.user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        await router(scope, receive, send)

    router = Starlette(routes=[Route("/reads", reads), Route("/reads-not", reads_not)])
    calls = client(monitor.instrument(app))
    contexts = monitor.detection.foreign_context
    monitor.detection.answering = contexts.judge
    monkeypatch.setattr(contexts, "wants_glance", lambda: False)
    contexts.places.scan()
    for user in USERS:
        # Often enough that the interpreter specialises what was really run.
        for _ in range(5):
            await calls.get("/reads", user=user)
    doors["bobby"].set()
    await calls.get("/reads-not", user="bobby")
    doors["bobby"].clear()
    monitor.housekeeper.settle(0.1)

    other = asyncio.create_task(calls.get("/reads-not", user="bobby"))
    await asyncio.sleep(0.05)
    disturbed = asyncio.create_task(_get(calls, "/reads", "wait=1", "alice"))
    await asyncio.sleep(0.05)
    doors["bobby"].set()
    await other
    await calls.get("/reads", user="carol")
    doors["alice"].set()
    await disturbed

    assert [v.kind for v in monitor.ledger.recent].count("foreign_context") == 1


LEGITIMATE = {
    "own context variable": (own_variable,),
    "page of somebody else": (shown_page,),
    "room of somebody else": (visited_room,),
    "statistic that the route never reads": (statistic,),
    "statistic read in a branch that is not taken": (not_taken,),
    "global under a lock": (under_a_lock,),
    "global under a lock, in a class-based endpoint": (LockedEndpoint,),
    "class-based endpoint that never waits": (HurriedEndpoint,),
    "holder of the one resource": (held_by,),
    "state under the principal's key": (keyed_state,),
    "route that does not use the place": (under_a_lock, nothing),
}


@pytest.mark.parametrize("case", LEGITIMATE)
async def test_legitimate_uses_stay_silent(drive, case) -> None:
    found = await drive(*LEGITIMATE[case], queries=("", "of=alice", "of=bobby"))

    assert found["foreign_context"] == 0


async def test_a_class_is_judged_by_the_method_that_serves(monitor, client) -> None:
    calls = client(monitor.instrument(Starlette(routes=[Route("/", Resource)])))
    monitor.detection.answering = monitor.detection.foreign_context.judge
    monitor.detection.foreign_context.places.scan()

    for user in USERS * 3:
        await calls.get("/", user=user, method="POST")
        await calls.get("/", user=user)
    for _ in range(3):
        await asyncio.gather(*(calls.get("/", user=user, method="POST") for user in USERS))

    assert [v for v in monitor.ledger.recent if v.kind == "foreign_context"] == []


async def test_what_is_switched_off_reads_no_code(drive, monitor, monkeypatch) -> None:
    await drive(nothing)
    contexts = monitor.detection.foreign_context
    read: list[float] = []
    monkeypatch.setattr(contexts._endpoint_places, "tick", read.append)

    contexts._tick(time.monotonic())
    monitor.detection.switches.kill(True)
    contexts._tick(time.monotonic())

    assert len(read) == 1


async def test_a_counter_is_no_identity_though_users_have_numbers(drive, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "served_count", 0)

    found = await drive(counting, users=tuple(str(n) for n in range(1, 9)))

    assert found["foreign_context"] == 0


async def test_every_request_that_was_looked_at_is_a_check(drive, monitor, samples) -> None:
    await drive(own_variable)

    assert samples(monitor, "isolation_checks_total", detector="foreign_context", result="pass") == 4 + 3 * 4


async def test_places_that_never_name_anybody_are_looked_at_less_until_they_do(drive, monitor) -> None:
    await drive(global_user)
    detector = monitor.detection.foreign_context
    place = Place("global", "barren", "barren", frozenset(), lambda: value)
    detector.places.shared, detector.places.locals = [place], []
    detector._closures.clear()
    detector._telling.clear()
    detector.glances_left, value = 10**9, "nobody-we-know"

    for _ in range(BARREN_GLANCES):
        detector.glance()
    wanted = sum(detector.wants_glance() for _ in range(10 * BARREN_SHARE))
    value = USERS[0]
    detector.glance()

    assert wanted == 10
    assert all(detector.wants_glance() for _ in range(10))


async def test_hundreds_of_silent_places_do_not_use_up_the_looks_at_the_one_that_names_somebody(drive, monitor) -> None:
    detector = monitor.detection.foreign_context
    scan = detector.places.scan

    def scan_a_large_application() -> None:
        scan()
        silent = [Place("global", f"silent {n}", ("silent", n), frozenset(), lambda: "nobody") for n in range(1_500)]
        detector.places.shared = [*silent, *detector.places.shared]

    detector.places.scan = scan_a_large_application

    assert (await drive(global_user))["foreign_context"] >= 1


async def test_a_failure_of_its_own_never_reaches_the_application(drive, monitor, samples) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError("injected")

    monitor.detection.foreign_context._look_at_context = breaks

    assert (await drive(own_variable))["foreign_context"] == 0
    assert samples(monitor, "isolation_checks_total", detector="foreign_context", result="error") > 0


async def test_objects_that_raise_when_touched_are_never_touched(drive) -> None:
    class Hostile:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

        __eq__ = __hash__ = __repr__ = __len__ = __getattribute__  # type: ignore[assignment]

    hostile = Hostile()

    async def endpoint(request: Request) -> JSONResponse:
        room_var.set(hostile)
        default_var.get()["x"] = hostile
        return JSONResponse({})

    assert (await drive(endpoint))["foreign_context"] == 0


async def test_a_planted_fault_is_reported_as_synthetic(monitor) -> None:
    monitor.detection.foreign_context.plant(Lab(monitor.principals))

    (violation,) = monitor.violations(synthetic=True)
    assert (violation.kind, violation.synthetic) == ("foreign_context", True)
    assert len(monitor.detection.foreign_context._slots) == 0
