"""What `bench.watch_causes` acts on: a stack as it is shipped, a Docker engine, a service, and endpoints that are probed."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import yaml

from bench.watch_service import SERVICE
from isolation_monitor.alerts import build
from tests.real_parts.certificates import Authority
from tests.real_parts.docker_engine import DockerEngine, docker_engine
from tests.real_parts.drills import Stack, drill_stack
from tests.real_parts.processes import eventually, free_port, running, started
from tests.real_parts.rollouts import ask

ROOT: Final = Path(__file__).resolve().parent.parent
MAIN_INTERVAL: Final = str(yaml.safe_load(build.configurations()["prometheus.yml"])["global"]["scrape_interval"])
"""The pace of the configuration that is shipped, not the quicker one of tests."""
DOWN, SLOW, EXPIRING = "down", "slow", "expiring"
"""The endpoints, as their probes are called."""
LONG_DAYS: Final = 400
LEFT_S: Final = 5
"""After so many seconds what nobody owns counts as left behind, where a collector waits for an hour by default."""


class Endpoint:
    """An HTTP endpoint that answers 200 until it is told otherwise; with a certificate, by TLS."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        endpoint = self
        self.delay_s = 0.0

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(endpoint.delay_s)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_about: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.show(certificate)
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def show(self, certificate: tuple[Path, Path]) -> None:
        """Show this certificate to whoever connects from now on."""
        if self._tls is not None:
            self._tls.load_cert_chain(*certificate)

    def close(self) -> None:
        """Take no connections any more."""
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class World:
    """Everything that runs. `service_environ` is that of the service's processes, which are its workers: they share their metrics.

    What has to go on until the end is entered into `closing`.
    """

    folder: Path
    stack: Stack
    engine: DockerEngine
    endpoints: Mapping[str, Endpoint]
    authority: Authority
    service_environ: Mapping[str, str]
    closing: contextlib.ExitStack
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _hanging: list[Path] = field(default_factory=list)

    def asked(self, path: str) -> dict[str, Any]:  # Any: JSON
        """Return what the collector answers."""
        return ask(self.stack.collector, "GET", path)

    @contextlib.contextmanager
    def worker(self, conduct: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Start another worker of the service, see `bench.watch_service`; give it and the file of its phase's beginning."""
        command, environ, moment = self._uvicorn(conduct, free_port())
        with (self.folder / f"{conduct}.log").open("wb") as log, started(command, env=environ, stdout=log, stderr=log) as process:
            yield process, moment

    def hanging_since(self) -> float:
        """Return since when (Unix time) a worker is in a phase that does not end; the first to ask starts it, it goes on until the end."""
        with self._lock:
            if not self._hanging:
                _process, moment = self.closing.enter_context(self.worker("hangs"))
                self._hanging.append(moment)
        return eventually(lambda: float(self._hanging[0].read_text()) if self._hanging[0].exists() else None, "a phase begins")

    @contextlib.contextmanager
    def serving(self, port: int) -> Iterator[None]:
        """Run the worker that Prometheus reads until the block ends."""
        command, environ, _moment = self._uvicorn("well", port)
        with running(command, self.folder / "well.log", f"http://127.0.0.1:{port}/readyz", environ):
            yield

    def _uvicorn(self, conduct: str, port: int) -> tuple[list[str], dict[str, str], Path]:
        moment = self.folder / f"{conduct}.moment"
        command = [sys.executable, "-m", "uvicorn", "--factory", "bench.watch_service:create_app", "--app-dir", str(ROOT)]
        environ = {**self.service_environ, "WATCH_CONDUCT": conduct, "WATCH_MOMENT": str(moment)}
        return [*command, "--port", str(port), "--log-level", "warning"], environ, moment

    def await_watched(self) -> None:
        """Return when Prometheus reads everything, and all is well so far: what is caused from now on is news.

        Raises:
            AssertionError: something of it is not read or not well; the text says what.
        """
        well = {
            "three pages": "count(up == 1) == 3",
            "the engine": "isolation_container_engine_up == 1",
            "the endpoints": f"count(isolation_probe_success == 1) == {len(self.endpoints)}",
            "the service": f'isolation_startup_duration_seconds{{service="{SERVICE}"}}',
        }
        for what, expression in well.items():
            eventually(lambda expression=expression: self.stack.prometheus.query(expression), f"Prometheus reads {what}", within_s=90)


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """Run everything in `folder` until the block ends; the block begins when all of it is watched."""
    with contextlib.ExitStack() as closing:
        authority = Authority(folder, "authority")
        endpoints = {DOWN: Endpoint(), SLOW: Endpoint(), EXPIRING: Endpoint(authority.certificate("long", LONG_DAYS))}
        for endpoint in endpoints.values():
            closing.callback(endpoint.close)
        probes = folder / "endpoints.yml"
        probes.write_text(yaml.safe_dump(_probes(endpoints, authority)), encoding="utf-8")
        engine = closing.enter_context(docker_engine(live_restore=True))
        settings = {
            "COLLECTOR_DOCKER_ENGINES": engine.url,
            "COLLECTOR_PROBES_FILE": str(probes),
            "COLLECTOR_CONTAINER_ORPHAN_AFTER_S": str(LEFT_S),
        }
        port = free_port()
        stack = closing.enter_context(
            drill_stack(folder, is_patient=True, services=[f"127.0.0.1:{port}"], main_interval=MAIN_INTERVAL, settings=settings)
        )
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("ISOLATION_", "OTEL_"))} | {
            "ISOLATION_METRICS_DIR": str(folder / "metrics"),
            "ISOLATION_SPOOL_DIR": "",
            "ISOLATION_HASH_KEY": "only-for-the-benchmark",
        }
        found = World(folder, stack, engine, endpoints, authority, environ, closing)
        closing.enter_context(found.serving(port))
        found.await_watched()
        yield found


def _probes(endpoints: Mapping[str, Endpoint], authority: Authority) -> dict[str, Any]:  # Any: YAML
    """Return a probes file that leaves everything but the addresses as it is by default."""
    ours = {"prober": "http", "http": {"tls_config": {"ca_file": str(authority.file)}}}
    return {
        "modules": {"ours": ours},
        "probes": [
            {"name": name, "target": one.url, "service": SERVICE, **({"module": "ours"} if name == EXPIRING else {})}
            for name, one in endpoints.items()
        ],
    }
