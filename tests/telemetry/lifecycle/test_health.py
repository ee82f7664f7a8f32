"""Health answers: true under load and failure, cheap however many ask, and never in the way of the application's own routes."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.errors import NotReadyError

PATIENCE_S = 30.0
Make = Callable[..., IsolationMonitor]


async def missing(scope: Any, receive: Any, send: Any) -> None:
    """An application that has only `/own`."""
    status = 200 if scope["path"] == "/own" else 404
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"own" if status == 200 else b""})


async def everywhere(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers any path: a page for browsers, say."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


async def test_paths_are_answered_once_something_is_declared(make_monitor: Make, client: Any) -> None:
    monitor = make_monitor(lifecycle_signals="off")
    users = client(monitor.instrument(missing))
    assert (await users.get("/readyz")).status == 404

    monitor.lifecycle.phase("database")(lambda: None)
    before = await users.get("/readyz")
    async with monitor.lifecycle:
        ready, started, alive = [await users.get(path) for path in ("/readyz", "/startupz", "/livez")]
        head = await users.get("/readyz", method="HEAD")
        posted = await users.get("/readyz", method="POST")
    after = await users.get("/readyz")

    assert before.status == 503
    assert before.json()["reasons"] == ["the start-up has not begun: nobody has entered monitor.lifecycle"]
    assert (ready.status, started.status, alive.status) == (200, 200, 200)
    assert ready.headers["cache-control"] == "no-store"
    assert ready.json()["startup"]["phases"]["database"]["state"] == "done"
    assert alive.json()["loop_lag_s"] >= 0
    assert (head.status, head.body) == (200, b"")
    assert posted.status == 404, "what does not read is the application's"
    assert (after.status, after.json()["reasons"]) == (503, ["it is shutting down"])
    assert (await users.get("/livez")).status == 200, "who shuts down is alive"
    assert (await users.get("/own")).body == b"own"


async def test_an_applications_own_answer_is_never_replaced(make_monitor: Make, client: Any) -> None:
    monitor = make_monitor(lifecycle_signals="off")
    monitor.lifecycle.phase("database")(lambda: None)
    users = client(monitor.instrument(everywhere))

    for _ in range(2):
        assert (await users.get("/readyz")).body == b"page"


async def test_the_application_is_asked_once_whose_a_path_is(make_monitor: Make, client: Any) -> None:
    asked: list[str] = []

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await missing(scope, receive, send)

    monitor = make_monitor(lifecycle_signals="off", readyz_path="/health/ready", startupz_path="")
    monitor.lifecycle.phase("database")(lambda: None)
    users = client(monitor.instrument(counting))
    for _ in range(3):
        assert (await users.get("/health/ready")).status == 503
    assert (await users.get("/startupz")).status == 404

    assert asked == ["/health/ready", "/startupz"]


async def test_a_strangers_request_does_not_take_the_answers_away(make_monitor: Make, client: Any) -> None:
    """A refusal, of a wrong Host header or by a limit of rates, is no answer of the application's own at that path."""
    statuses = [400, 429]

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": statuses.pop(0) if statuses else 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monitor = make_monitor(lifecycle_signals="off")
    monitor.lifecycle.check("well")(lambda: True)
    users = client(monitor.instrument(refusing))

    assert [(await users.get("/readyz")).status for _ in range(4)] == [400, 429, 200, 200]


async def test_an_application_with_checks_alone_has_started(make_monitor: Make) -> None:
    """A platform that waits for `/startupz` would restart it for ever."""
    life = make_monitor(lifecycle_signals="off").lifecycle
    life.check("database")(lambda: True)

    ready, started = await life.health.answer("readyz"), await life.health.answer("startupz")

    assert (ready.status, started.status, started.body["status"]) == (200, 200, "started")


async def test_async_checks_and_steps_run_on_the_applications_loop_without_a_start_up(make_monitor: Make) -> None:
    """A pool of connections belongs to one event loop, and fails on any other."""
    life = make_monitor(lifecycle_signals="off").lifecycle
    loops: list[asyncio.AbstractEventLoop] = []

    @life.check("database")
    async def ping() -> None:
        loops.append(asyncio.get_running_loop())

    @life.cleanup("database")
    async def disconnect() -> None:
        loops.append(asyncio.get_running_loop())

    await life.health.answer("readyz")
    await life.aclose()

    assert loops == [asyncio.get_running_loop()] * 2


async def test_probes_go_on_while_the_monitor_is_off(make_monitor: Make, client: Any) -> None:
    """The kill switch takes the watching off, and must not get every worker restarted."""
    monitor = make_monitor(mode="off", lifecycle_signals="off")
    monitor.lifecycle.phase("database")(lambda: None)
    users = client(monitor.instrument(missing))

    async with monitor.lifecycle:
        assert (await users.get("/readyz")).status == 200
        assert (await users.get("/own")).body == b"own"


async def test_the_endpoint_can_be_mounted_by_itself(monitor: IsolationMonitor, client: Any) -> None:
    users = client(monitor.lifecycle.endpoint)

    assert (await users.get("/health/livez")).status == 200
    assert (await users.get("/health/other")).status == 404
    assert (await users.get("/livez", method="DELETE")).status == 405


async def test_checks_decide_readiness_and_say_no_more_than_they_may(make_monitor: Make) -> None:
    life = make_monitor(lifecycle_signals="off").lifecycle
    state: dict[str, BaseException | None] = {"error": None}

    @life.check("database", cache_s=0)
    async def database() -> None:
        if state["error"] is not None:
            raise state["error"]

    life.check("disk", cache_s=0)(lambda: True)
    life.check("pool", cache_s=0, required=False)(lambda: False)
    life.check("numbers", cache_s=0)(lambda: {"free": 3})
    life.check("odd", cache_s=0)(lambda: {"object": object()})

    well = await life.health.answer("readyz")
    state["error"] = ConnectionError("postgres://ann:secret@db")
    broken = await life.health.answer("readyz")
    state["error"] = NotReadyError("the pool is exhausted")
    exhausted = await life.health.answer("readyz")

    assert well.status == 200, "a check that is not required does not count"
    assert well.body["checks"]["pool"]["status"] == "failed"
    assert well.body["checks"]["numbers"]["detail"] == {"free": 3}
    assert "not shown" in well.body["checks"]["odd"]["detail"]["detail"]
    assert (broken.status, broken.body["reasons"]) == (503, ["database: ConnectionError"])
    assert "secret" not in json.dumps(broken.body)
    assert exhausted.body["reasons"] == ["database: the pool is exhausted"]


async def test_a_check_that_hangs_is_out_once_and_others_are_asked_at_the_same_time(make_monitor: Make) -> None:
    life = make_monitor(lifecycle_signals="off").lifecycle
    release, calls = threading.Event(), []

    @life.check("stuck", timeout_s=0.1, cache_s=0)
    def stuck() -> None:
        calls.append(1)
        release.wait(PATIENCE_S)

    @life.check("well", cache_s=0)
    async def well() -> None: ...

    answers = await asyncio.gather(*(life.health.answer("readyz") for _ in range(20)))
    again = await life.health.answer("readyz")
    release.set()

    assert len(calls) == 1
    assert {answer.status for answer in answers} == {503}
    assert again.body["checks"]["stuck"]["reason"].startswith("timed out")
    assert again.body["checks"]["well"]["status"] == "ok"


async def test_an_answer_is_good_for_all_who_ask_for_a_while(make_monitor: Make) -> None:
    life = make_monitor(lifecycle_signals="off").lifecycle
    calls: list[int] = []
    life.check("counted", cache_s=3600)(lambda: calls.append(1))

    for _ in range(50):
        assert (await life.health.answer("readyz")).status == 200

    assert len(calls) == 1


async def test_a_check_that_is_too_slow_fails_at_every_probe(make_monitor: Make) -> None:
    """A late answer waits for the next probe; taken as its answer, a worker that is not well would be ready every other time."""
    life = make_monitor(lifecycle_signals="off").lifecycle
    release, over = threading.Event(), threading.Event()

    @life.check("slow", timeout_s=0.05, cache_s=0)
    def slow() -> None:
        release.wait(PATIENCE_S)
        over.set()

    first = await life.health.answer("readyz")
    release.set()
    await asyncio.to_thread(over.wait, PATIENCE_S)
    release.clear()
    second = await life.health.answer("readyz")
    release.set()

    assert (first.status, second.status) == (503, 503)
    assert "timed out" in second.body["reasons"][0]


async def test_a_check_that_answers_late_fails_also_while_a_longer_one_is_waited_for(make_monitor: Make) -> None:
    life = make_monitor(lifecycle_signals="off").lifecycle

    @life.check("late", timeout_s=0.05)
    async def late() -> None:
        await asyncio.sleep(0.2)

    @life.check("long", timeout_s=PATIENCE_S)
    async def long() -> None:
        await asyncio.sleep(0.4)

    answer = await life.health.answer("readyz")

    assert answer.body["checks"]["late"]["status"] == "failed"
    assert answer.body["checks"]["long"]["status"] == "ok"


async def test_what_a_check_raises_is_in_no_log(make_monitor: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Asyncio logs errors that nobody has asked a future for, with their whole text."""
    life = make_monitor(lifecycle_signals="off").lifecycle

    @life.check("database", cache_s=0)
    async def database() -> None:
        raise ConnectionError("postgres://ann:secret@db")

    for _ in range(3):
        await life.health.answer("readyz")
    gc.collect()
    await asyncio.sleep(0)

    assert "secret" not in caplog.text
    assert "never retrieved" not in caplog.text


def test_checks_do_not_hold_up_the_loop_of_trio(make_monitor: Make) -> None:
    life = make_monitor(lifecycle_signals="off").lifecycle
    went_on = threading.Event()

    @life.check("waits", timeout_s=PATIENCE_S)
    def waits() -> bool:
        return went_on.wait(PATIENCE_S / 2)

    async def probed() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            return (await life.health.answer("readyz")).status

    async def go_on() -> None:
        await trio.sleep(0.05)
        went_on.set()

    assert trio.run(probed) == 200


async def test_a_probe_that_gave_up_prints_nothing(make_monitor: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Platforms close the connection at their timeout: that must not fill the host's stderr with stacks."""
    monitor = make_monitor(lifecycle_signals="off", health_port=_free_port())
    life = monitor.lifecycle
    asked, gone = threading.Event(), threading.Event()

    @life.check("slow", timeout_s=PATIENCE_S)
    def slow() -> None:
        asked.set()
        gone.wait(PATIENCE_S)

    async with life:
        assert life.port is not None
        with socket.create_connection(("127.0.0.1", life.port)) as probe:
            probe.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
            await asyncio.to_thread(asked.wait, PATIENCE_S)
            # Closed so, it is reset at once.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        async with asyncio.timeout(PATIENCE_S):
            while any("process_request_thread" in one.name for one in threading.enumerate()):  # noqa: ASYNC110  # threads tell nobody
                await asyncio.sleep(0.02)

    assert "Traceback" not in capfd.readouterr().err


async def test_a_thread_answers_while_the_event_loop_stands_still(make_monitor: Make) -> None:
    """Who asks over the loop hears nothing; over the port he hears that it is not ready, and at length that it is not live."""
    monitor = make_monitor(lifecycle_signals="off", health_port=_free_port(), live_lag_s=0.5)
    life = monitor.lifecycle

    @life.check("database", timeout_s=0.05, cache_s=0)
    async def database() -> None: ...

    async with life:
        port = life.port
        assert port is not None
        assert (await asyncio.to_thread(_ask, port, "/livez"))[0] == 200
        assert (await asyncio.to_thread(_ask, port, "/readyz"))[0] == 200
        assert (await asyncio.to_thread(_ask, port, "/nothing"))[0] == 404
        found: dict[str, tuple[int, Any]] = {}

        def probe() -> None:
            # Until the loop stands still for longer than it may, and not a moment after it moves again.
            deadline = time.monotonic() + PATIENCE_S
            while found.get("/livez", (200,))[0] == 200 and time.monotonic() < deadline:
                found["/livez"] = _ask(port, "/livez")
            found["/readyz"] = _ask(port, "/readyz")

        probing = threading.Thread(target=probe)
        probing.start()
        probing.join(PATIENCE_S)  # stands still meanwhile

        assert found["/livez"][0] == 503
        assert found["/livez"][1]["status"] == "stalled"
        assert found["/readyz"][0] == 503
        assert "timed out" in found["/readyz"][1]["reasons"][0]
        await asyncio.sleep(0)
        assert (await asyncio.to_thread(_ask, port, "/livez"))[0] == 200


def _ask(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
