"""The separate port: same pages, same token, and a successor when its owner ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.port import serve_on_port


def get(port: int | None, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def test_the_pages_are_served_with_the_token(registry: MetricRegistry) -> None:
    registry.declare(names.VIOLATIONS)
    server = serve_on_port(registry, "127.0.0.1", 0, "open-sesame")
    try:
        refused = get(server.port, "/metrics/isolation")
        small = get(server.port, "/metrics/isolation?x=1", Authorization="Bearer open-sesame")
        head = get(server.port, "/metrics/isolation/all", "HEAD", Authorization="Bearer open-sesame")
        unknown = get(server.port, "/")
    finally:
        server.close()

    assert (refused[0], refused[1]["content-type"]) == (401, "application/problem+json")
    assert small[0] == 200
    assert b"isolation_violations_total{" in small[2]
    assert (head[0], head[2]) == (200, b"")
    assert int(head[1]["content-length"]) > 0
    assert unknown[0] == 404


def test_closing_at_once_does_not_hang_and_frees_the_port(registry: MetricRegistry) -> None:
    for _ in range(10):
        server = serve_on_port(registry, "127.0.0.1", 0)
        port = server.port
        server.close()
        server.close()

        assert server.port is None
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port or 0))


def test_a_second_worker_takes_the_port_over_when_the_first_ends(registry: MetricRegistry, eventually: Callable[..., Any]) -> None:
    first = serve_on_port(registry, "127.0.0.1", 0)
    port = first.port
    assert port is not None
    second = serve_on_port(registry, "127.0.0.1", port)
    try:
        assert second.port is None
        first.close()

        eventually(lambda: second.port == port, "the second to take over")
        assert get(port, "/metrics")[0] == 200
    finally:
        second.close()


FORKING = """
import os, pathlib, sys, time
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.port import serve_on_port
registry = MetricRegistry("chat", pathlib.Path(os.environ["FOLDER"]))
server = serve_on_port(registry, "127.0.0.1", 0)
server._address = ("127.0.0.1", server.port)
registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(1)
child = os.fork()
if child:
    print(server.port, child, flush=True)
    input()
    os._exit(0)
registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(10)
while True:
    time.sleep(0.1)
"""


def test_a_forked_worker_takes_over_from_its_dead_parent(
    tmp_path: Path, python: Callable[..., subprocess.Popen[str]], eventually: Callable[..., Any], read: Callable[..., float]
) -> None:
    """The child must not keep the parent's socket open without serving it."""
    process = python(FORKING, FOLDER=str(tmp_path))
    assert process.stdout is not None
    assert process.stdin is not None
    port, child = map(int, process.stdout.readline().split())
    try:
        eventually(
            lambda: read(get(port, "/metrics")[2], "isolation_websocket_messages_total", direction="sent") == 11.0, "both to be counted"
        )
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(30)

        eventually(
            lambda: read(get(port, "/metrics")[2], "isolation_websocket_messages_total", direction="sent") == 11.0, "the child to serve"
        )
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_port_that_may_not_be_had_does_not_raise(registry: MetricRegistry) -> None:
    server = serve_on_port(registry, "203.0.113.1", 1)

    assert server.port is None

    server.close()


@pytest.mark.parametrize("page", ["/metrics", "/metrics/isolation", "/metrics/isolation/all"])
def test_every_page_answers(registry: MetricRegistry, page: str) -> None:
    server = serve_on_port(registry, "127.0.0.1", 0)
    try:
        assert get(server.port, page)[0] == 200
    finally:
        server.close()
