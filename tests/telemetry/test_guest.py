"""A guest in its host: whatever breaks inside the monitor, the application's answers, exceptions and timing stay its own."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest

from isolation_monitor.telemetry.delivery.acknowledgements import Acks
from tests.telemetry.conftest import Socket


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/boom":
        raise LookupError("the application's own")
    body = json.dumps({"user_id": "ann", "path": scope["path"]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), (b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": body})


def breaks(*_: Any, **__: Any) -> Any:
    raise RuntimeError("injected")


FAULTS = {
    "principal": lambda m: m.principal(breaks),
    "exposure": lambda m: setattr(m.ledger, "exposure", None),
    "finish": lambda m: setattr(m.ledger, "finish", breaks),
    "identity": lambda m: setattr(m, "identity", object()),
    "leaks": lambda m: setattr(m.leaks, "request_ended", breaks),
    "registry": lambda m: setattr(m.registry, "counter", breaks),
    "histogram": lambda m: setattr(m.registry, "histogram", breaks),
    "route": lambda m: setattr(m, "_route_template", breaks),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_answers_are_byte_equal_whatever_breaks_inside(monitor, client, fault) -> None:
    monitor.identity_fields("user_id")
    plain = await client(app).get("/x", user="ann")
    calls = client(monitor.instrument(app))
    FAULTS[fault](monitor)

    watched = await calls.get("/x", user="ann")

    assert (watched.status, watched.headers, watched.body) == (plain.status, plain.headers, plain.body)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_applications_own_exception_passes_unchanged(monitor, client, fault) -> None:
    calls = client(monitor.instrument(app))
    FAULTS[fault](monitor)

    with pytest.raises(LookupError, match="the application's own"):
        await calls.get("/boom", user="ann")


class BrokenAcks:
    """Acknowledgements that hand frames on and fail at the end."""

    def __init__(self, send: Any) -> None:
        self.send = send

    ended = breaks


WEBSOCKET_FAULTS = {
    **{name: FAULTS[name] for name in ("principal", "exposure", "finish", "leaks", "registry")},
    "frames": lambda m: setattr(m.frames, "_judge", breaks),
    "runs": lambda m: setattr(m.runs, "sent", breaks),
    "acknowledgements": lambda m: setattr(m.delivery.acknowledgements, "watch", lambda send: BrokenAcks(send)),
    "measuring": lambda m: setattr(m.delivery.acknowledgements, "watch", breaks),
}


@pytest.mark.parametrize("fault", WEBSOCKET_FAULTS)
async def test_frames_are_equal_whatever_breaks_inside(monitor, socket, fault) -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            async with monitor.run("run-1") as run:
                run.emit("agent_started")
                await send({"type": "websocket.send", "text": message["text"]})

    app = monitor.instrument(echo)
    monitor.identity_fields("user_id")
    WEBSOCKET_FAULTS[fault](monitor)
    ann = await socket(app, "ann")

    ann.say({"run_id": "run-1", "type": "agent_started", "user_id": "bob"})

    assert await ann.hear() == {"run_id": "run-1", "type": "agent_started", "user_id": "bob"}
    await ann.leave()
    assert ann.task.exception() is None
    assert not monitor.connections


async def test_errors_of_our_own_are_counted(monitor, client, samples) -> None:
    calls = client(monitor.instrument(app))
    monitor.principal(breaks)

    await calls.get("/x", user="ann")

    assert samples(monitor, "isolation_monitor_errors_total", hook="principal") >= 1
    assert samples(monitor, "isolation_requests_total", verdict="unverified") == 1


async def test_the_kill_switch_works_at_run_time_and_back(monitor, client, samples) -> None:
    calls = client(monitor.instrument(app))

    monitor.mode = "off"
    await calls.get("/x", user="ann")
    assert samples(monitor, "isolation_requests_total") == 0

    monitor.mode = "monitor"
    await calls.get("/x", user="ann")
    assert samples(monitor, "isolation_requests_total") == 1


async def test_mode_off_leaves_the_application_itself(make_monitor) -> None:
    monitor = make_monitor(mode="off")

    assert monitor.instrument(app) is app


async def test_requests_without_a_principal_are_never_called_isolated(monitor, client, samples) -> None:
    calls = client(monitor.instrument(app))

    await calls.get("/x")

    assert samples(monitor, "isolation_requests_total", verdict="unverified") == 1
    assert samples(monitor, "isolation_requests_total", verdict="isolated") == 0


async def test_excluded_paths_are_not_judged(monitor, client, samples) -> None:
    calls = client(monitor.instrument(app))

    for path in ("/healthz", "/static/a.css"):
        assert (await calls.get(path)).status == 200

    assert samples(monitor, "isolation_requests_total") == 0


async def test_an_overlapping_request_of_another_principal_exposes_both(monitor, client, samples) -> None:
    import asyncio

    gate = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        await app(scope, receive, send)

    calls = client(monitor.instrument(waits))
    await calls.get("/x", user="ann")
    assert samples(monitor, "isolation_requests_total", exposed="true") == 0

    slow = asyncio.create_task(calls.get("/slow", user="ann"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await calls.get("/x", user="bob")
    gate.set()
    await slow
    assert samples(monitor, "isolation_requests_total", exposed="true") == 2


async def test_the_hosts_own_metrics_page_is_never_replaced(monitor, client) -> None:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        status = 200 if scope["path"] == "/metrics" else 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"the host's page"})

    calls = client(monitor.instrument(host))

    assert (await calls.get("/metrics")).body == b"the host's page"
    assert monitor.host_owns_metrics_path
    assert b"isolation_requests_total" in (await calls.get("/metrics/isolation")).body


async def test_without_a_page_of_the_hosts_ours_is_served(monitor, client) -> None:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"nothing here"})

    answer = await client(monitor.instrument(host)).get("/metrics")

    assert answer.status == 200
    assert b"http_server_request_duration_seconds" in answer.body
    assert b"nothing here" not in answer.body


async def test_finished_requests_hold_nothing_of_the_host(monitor, client) -> None:
    """The context keeps our request object alive; the scope, its headers and its app must not live with it."""
    from isolation_monitor.telemetry.context import SCOPE_KEY

    kept: list[Any] = []

    async def keeps(scope: Any, receive: Any, send: Any) -> None:
        kept.append(scope[SCOPE_KEY])
        await app(scope, receive, send)

    await client(monitor.instrument(keeps)).get("/x", user="ann")

    assert kept[0].scope is None


class Held:
    """Something of the application's that takes a weak reference."""


async def test_a_handler_that_fails_lets_its_objects_go_at_once(monitor) -> None:
    """A frame that waits for the collector of cycles holds a session, a model or a page of rows until then."""
    held: list[weakref.ref[Held]] = []

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        session = Held()
        held.append(weakref.ref(session))
        await receive()
        raise LookupError("the application's own")

    ann = await Socket(monitor.instrument(fails), "ann").accepted()
    gc.collect()
    gc.disable()
    try:
        await ann.leave()
        assert isinstance(ann.task.exception(), LookupError)
        del ann

        assert held[0]() is None
    finally:
        gc.enable()


async def test_a_remembered_run_does_not_hold_what_hangs_on_its_connection(monitor, socket) -> None:
    """Ten thousand runs are remembered: each would hold a user's session and everything else that lies in a scope."""
    held: list[weakref.ref[Held]] = []

    async def serves(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"session": (session := Held())}
        held.append(weakref.ref(session))
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            async with monitor.run("run-1") as run:
                run.emit("agent_started")
                await send({"type": "websocket.send", "text": '{"run_id": "run-1", "type": "agent_started"}'})

    ann = await socket(monitor.instrument(serves), "ann")
    ann.say({"hello": 1})
    await ann.hear()
    await ann.leave()
    del ann
    gc.collect()

    assert "run-1" in monitor.runs.known
    assert held[0]() is None


async def test_a_ping_that_its_server_refuses_breaks_no_send(monitor, samples) -> None:
    class Ending:
        has_kernel, has_pong = False, True
        ping = breaks

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    acks = Acks(monitor.delivery.acknowledgements, Ending(), send)
    await acks.send({"type": "websocket.send", "text": "hello"})
    await acks.send({"type": "websocket.close"})
    acks.ended()

    assert [message["type"] for message in sent] == ["websocket.send", "websocket.close"]
    assert samples(monitor, "isolation_monitor_errors_total", hook="delivery") == 2


@pytest.mark.parametrize("part", ["housekeeper.start", "outbox.start", "worker_deaths.ended", "outbox.sync"])
async def test_the_application_starts_and_ends_whatever_of_ours_cannot(monitor, part) -> None:
    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})

    sent: list[Any] = []
    inbox = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

    async def receive() -> Any:
        return inbox.pop()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    app = monitor.instrument(lifespan)
    owner, _, method = part.partition(".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getattr(monitor, owner), method, breaks)
        await app({"type": "lifespan"}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"hello"}
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "a file by its path": [START, {"type": "http.response.pathsend", "path": __file__}],
    "a file by its descriptor": [START, {"type": "http.response.zerocopysend", "file": 0}],
    "a hint before it": [{"type": "http.response.early_hint", "links": []}, START, BODY],
    "trailers": [{**START, "trailers": True}, BODY, {"type": "http.response.trailers", "headers": []}],
    "nothing but its head": [{**START, "status": 204}, {"type": "http.response.body"}],
    "parts": [START, {**BODY, "more_body": True}, BODY],
}


@pytest.mark.parametrize("detectors", ["", "foreign_content=block"])
@pytest.mark.parametrize("answer", ANSWERS)
async def test_answers_of_every_kind_arrive_whole(make_monitor, answer, detectors) -> None:
    """Servers offer more than bodies: an answer that is held back until it is judged must still go out where nothing is to be judged."""

    async def answers(scope: Any, receive: Any, send: Any) -> None:
        for message in ANSWERS[answer]:
            await send(message)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    headers = [(b"authorization", b"Bearer ann")]
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers, "query_string": b"", "http_version": "1.1"}
    await make_monitor(detectors=detectors).instrument(answers)(scope, receive, send)

    assert sent == ANSWERS[answer]
