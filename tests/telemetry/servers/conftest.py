"""Real servers in processes of their own, on free ports, with an application written to a file."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

START_LIMIT_S = 60


class Server:
    """One running server; `get` uses a new connection, `connection()` a kept one."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def get(self, path: str, user: str | None = None) -> tuple[int, bytes]:
        connection = self.connection()
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {user}"} if user else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def sample(self, name: str, **labels: str) -> float:
        status, body = self.get("/metrics/isolation/all")
        assert status == 200, body
        return sum(
            s.value
            for family in text_string_to_metric_families(body.decode())
            for s in family.samples
            if s.name == name and all(s.labels.get(k) == v for k, v in labels.items())
        )

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                self.get("/healthz")
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    running: list[subprocess.Popen[bytes]] = []

    def start(source: str, *command: str, python: str = sys.executable) -> Server:
        """Run `command` (with `{port}` filled in) beside a file `service.py` that holds `source`."""
        (tmp_path / "service.py").write_text(source)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = tmp_path / "server.log"
        environ = {**os.environ, "ISOLATION_HASH_KEY": "a key for tests", "TMPDIR": str(tmp_path)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-m", *(part.format(port=port) for part in command)],
                cwd=tmp_path,
                env=environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append(process)
        server = Server(process, port, log)
        server.wait_until_up()
        return server

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
