"""Registries in folders of their own, and real servers whose workers share one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from isolation_monitor.telemetry.metrics import MetricRegistry

DEADLINE_S = 60.0

APP = """
import json, os
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.endpoint import MetricsEndpoint

registry = MetricRegistry(os.environ.get("TEST_SERVICE", "chat"))
for metric in names.CATALOGUE:
    registry.declare(metric)
hits = registry.counter(names.REQUESTS, transport="http", verdict="isolated", exposed="true", arm="none")
active = registry.gauge(names.RUN_ACTIVE)
endpoint = MetricsEndpoint(registry)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                registry.own_thread()
                active.set(1.0)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if endpoint.serves(scope):
        return await endpoint(scope, receive, send)
    hits.values[hits.index] += 1.0
    body = json.dumps({"pid": os.getpid(), "directory": str(registry.directory)}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until `condition` returns something true; exceptions of a server that is not up yet count as not yet."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError, ConnectionError):
            found = condition()
            if found:
                return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {DEADLINE_S:.0f} s for {what}")
        time.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any], str], Any]:
    return wait_for


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[MetricRegistry]:
    made = MetricRegistry("chat", tmp_path / "group")
    yield made
    made.close()


@pytest.fixture
def read() -> Callable[..., float]:
    """Sum of the samples of a page with this name and these labels."""

    def read_page(page: bytes, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(page.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return read_page


class Server:
    """A real server in a process group of its own."""

    def __init__(self, arguments: list[str], folder: Path, port: int, service: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{service}-{port}.log"
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ISOLATION_")}
        environment |= {"TMPDIR": str(temporary), "TEST_SERVICE": service, "PYTHONDONTWRITEBYTECODE": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return bytes(answer.read())

    def hit(self) -> dict[str, Any]:
        """One counted request, answered by whichever worker took it."""
        return dict(json.loads(self.get("/hit")))

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start `python -m ARGUMENTS` with the test application in its folder; `{port}` is replaced by a free port."""
    (tmp_path / "metrics_app.py").write_text(APP)
    started: list[Server] = []

    def start(*arguments: str, service: str = "chat") -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = Server([argument.format(port=port) for argument in arguments], tmp_path, port, service)
        started.append(server)
        try:
            wait_for(lambda: server.process.poll() is None and server.get("/metrics"), f"the server to answer, see {server.log}")
        except AssertionError:
            print(server.log.read_text())
            raise
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process that runs this code; its standard output and input are pipes."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
