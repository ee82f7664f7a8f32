"""The monitor beside real servers and frameworks: one truth from all workers, templates as routes, a stock server's context leak."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

FASTAPI = """
import os
from fastapi import FastAPI, HTTPException, Request
from isolation_monitor.telemetry import IsolationMonitor

app = FastAPI()

@app.get("/items/{item_id}")
async def item(item_id: int):
    if item_id == 13:
        raise RuntimeError("unlucky")
    return {"item": item_id, "pid": os.getpid()}

monitor = IsolationMonitor.from_env(service="demo")
monitor.instrument(app)
"""

STARLETTE = """
import os
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from isolation_monitor.telemetry import IsolationMonitor

async def item(request):
    if request.path_params["item_id"] == "13":
        raise RuntimeError("unlucky")
    return JSONResponse({"item": request.path_params["item_id"], "pid": os.getpid()})

async def deep(request):
    return JSONResponse({})

app = Starlette(routes=[Mount("/deep", routes=[Route("/items/{item_id}", deep)]), Route("/items/{item_id}", item)])
monitor = IsolationMonitor.from_env(service="demo")
monitor.instrument(app)
"""

PLAIN = """
import json, os
from isolation_monitor.telemetry import IsolationMonitor

async def plain(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"].endswith("/13"):
        raise RuntimeError("unlucky")
    body = json.dumps({"pid": os.getpid()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})

monitor = IsolationMonitor.from_env(service="demo")
app = monitor.instrument(plain)
"""

UVICORN = ("uvicorn", "service:app", "--port", "{port}", "--log-level", "warning")
HYPERCORN = ("hypercorn", "service:app", "--bind", "127.0.0.1:{port}")
TWO_UVICORNS = (*UVICORN, "--workers", "2")


@pytest.mark.parametrize(
    ("source", "command", "route"),
    [
        (FASTAPI, UVICORN, "/items/{item_id}"),
        (STARLETTE, UVICORN, "/items/{item_id}"),
        (PLAIN, UVICORN, "unmatched"),
        (PLAIN, HYPERCORN, "unmatched"),
    ],
    ids=["fastapi", "starlette", "plain-asgi", "plain-asgi-hypercorn"],
)
def test_requests_are_judged_and_routes_are_templates(serve, source, command, route) -> None:
    server = serve(source, *command)

    for n in range(10):
        assert server.get(f"/items/{n}", user=f"user-{n % 3}")[0] == 200
    assert server.get("/items/13", user="ann")[0] == 500

    assert server.sample("isolation_requests_total", verdict="isolated") == 11
    assert server.sample("http_server_request_duration_seconds_count", http_route=route, http_response_status_code="200") == 10
    assert server.sample("http_server_request_duration_seconds_count", http_route=route, http_response_status_code="500") == 1
    assert server.sample("isolation_failures_total", outcome="contained") == 1
    assert server.sample("isolation_monitor_errors_total") == 0


def test_unknown_paths_share_one_route_label(serve) -> None:
    """A scanner asking for many random paths adds one time series per status, not one per path."""
    server = serve(FASTAPI, *UVICORN)

    for n in range(200):
        server.get(f"/wp-admin/{n}")

    assert server.sample("http_server_request_duration_seconds_count", http_route="unmatched", http_response_status_code="404") == 200


@pytest.mark.parametrize(
    "command",
    [TWO_UVICORNS, ("gunicorn", "service:app", "-b", "127.0.0.1:{port}", "-w", "2", "-k", "asgi")],
    ids=["uvicorn", "gunicorn"],
)
def test_two_workers_are_one_truth_even_when_one_is_killed(serve, command) -> None:
    """Every request is counted once, whichever worker answers the scrape, and a killed worker's counts stay."""
    server = serve(FASTAPI, *command)
    pids: set[int] = set()
    asked = 0
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(8) as pool:
        while len(pids) < 2 or asked < 200:
            assert time.monotonic() < deadline, "both workers answer"
            for status, body in pool.map(lambda n: server.get(f"/items/{100 + n}", user=f"user-{n}"), range(20)):
                assert status == 200
                pids.add(int(body.split(b'"pid":')[1].strip(b" }")))
            asked += 20

    for _ in range(5):
        assert server.sample("isolation_requests_total", verdict="isolated") == asked
    os.kill(next(iter(pids)), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        try:
            assert server.sample("isolation_requests_total", verdict="isolated") == asked
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


LEAKY = """
import contextvars, json
from isolation_monitor.telemetry import IsolationMonitor

user = contextvars.ContextVar("user")

async def plain(scope, receive, send):
    if scope["type"] != "http":
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    own = dict(scope["headers"]).get(b"authorization", b"nobody").decode()
    try:
        name = user.get()
    except LookupError:
        user.set(name := own)
    body = json.dumps({"own": own, "name": name}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})

monitor = IsolationMonitor.from_env(service="demo")
app = monitor.instrument(plain)
"""


def test_a_stock_servers_context_leak_is_found_exactly_where_it_harms(serve) -> None:
    """uvicorn on asyncio with h11: large bodies on one kept connection start a request in the previous one's context."""
    server = serve(LEAKY, *UVICORN, "--loop", "asyncio", "--http", "h11")
    connection = server.connection()
    wrong = 0
    for n in range(20):
        connection.request("POST", "/", body=b"x" * 300_000, headers={"Authorization": f"user-{n}"})
        answer = connection.getresponse().read()
        wrong += b'"own": "user-%d", "name": "user-%d"' % (n, n) not in answer
    connection.close()

    found = server.sample("isolation_violations_total", kind="inherited_context")

    assert found == wrong
    if sys.version_info < (3, 15):
        assert wrong > 0, "the leak this test is about did not happen"
