"""A receiver of notifications: keeps every HTTP request with the time of its arrival; and one of mail."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Delivery:
    """One request that arrived. `time` is Unix seconds."""

    path: str
    time: float
    headers: dict[str, str]
    body: Any


@dataclass
class Receiver:
    """What arrived so far, oldest first. Safe to read while more arrives."""

    url: str
    deliveries: list[Delivery] = field(default_factory=list)

    def alerts(self, path: str = "/", status: str = "firing") -> list[tuple[float, dict[str, Any]]]:
        """Return the alerts of Alertmanager webhooks on a path, with the time of their arrival."""
        return [
            (delivery.time, alert)
            for delivery in list(self.deliveries)
            if delivery.path == path
            for alert in delivery.body["alerts"]
            if alert["status"] == status
        ]


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """Listen on a free port until the block ends; every POST of JSON is answered 200 and kept."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            arrived = time.time()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kept.deliveries.append(Delivery(self.path, arrived, dict(self.headers), body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            # Slack's webhook answers so; the others read nothing.
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    with _served(server):
        yield kept


@contextlib.contextmanager
def mailbox() -> Iterator[tuple[str, list[str]]]:
    """Give `host:port` of a mail server that speaks just enough SMTP, and the list that its messages go to."""
    messages: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 mailbox")
            while line := self.rfile.readline().decode().strip():
                verb = line.split()[0].upper()
                if verb == "DATA":
                    self._say("354 go on")
                    lines = []
                    while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                        lines.append(text)
                    messages.append("\n".join(lines))
                self._say("221 bye" if verb == "QUIT" else "250 ok")
                if verb == "QUIT":
                    return

        def _say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with _served(server):
        yield f"127.0.0.1:{server.server_address[1]}", messages


@contextlib.contextmanager
def _served(server: socketserver.TCPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
