"""The health answers on a port of their own, served from a thread: what answers while the event loop stands still."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from isolation_monitor.telemetry.lifecycle.endpoint import NAMES
from isolation_monitor.telemetry.lifecycle.health import Health
from isolation_monitor.telemetry.metrics.port import ThreadPort
from isolation_monitor.telemetry.metrics.registry import MetricRegistry


def serve_health(health: Health, registry: MetricRegistry, host: str, port: int) -> ThreadPort:
    """Serve `/livez`, `/readyz` and `/startupz` on `host`:`port` (0: any free one) from a thread.

    Of several workers one gets the port, and speaks for itself alone; when it ends another takes over.
    """
    return ThreadPort("health", _handler(health), registry, host, port)


def _handler(health: Health) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].strip("/")
            if name in NAMES:
                answer = health.answer_from_thread(name)
                status, body = answer.status, answer.body
            else:
                status, body = 404, {"status": "not found", "known": list(NAMES)}
            text = json.dumps(body, separators=(",", ":")).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.send_header("cache-control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:  # the base class's name
            """Say nothing: a probe a second is no news."""

    return Handler
