"""A port of their own for the metrics, for hosts whose own port must not carry them. A thread and the standard library."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from isolation_monitor.telemetry.metrics.group import LOGGER
from isolation_monitor.telemetry.metrics.negotiation import accepts_gzip, is_authorized, problem, wants_openmetrics
from isolation_monitor.telemetry.metrics.pages import PageRequest, Pages
from isolation_monitor.telemetry.metrics.registry import MetricRegistry, Page

PATHS: Final[dict[str, Page]] = {"/metrics": "main", "/metrics/isolation": "isolation", "/metrics/isolation/all": None}
_RETRY_S: Final = 1.0


def serve_on_port(registry: MetricRegistry, host: str, port: int, token: str | None = None) -> ThreadPort:
    """Serve `PATHS` on `host`:`port` (0: any free one) from a thread.

    Several workers may ask for the same port: one gets it and shows the numbers of all; when it ends, another takes over
    within about a second. Never raises for a port that is taken.
    """
    return ThreadPort("metrics", _handler(Pages(registry), token or None), registry, host, port)


class ThreadPort:
    """A server in a thread, behind a port that several workers may ask for. `subject` names it in threads and logs."""

    def __init__(
        self, subject: str, handler: Callable[..., BaseHTTPRequestHandler], registry: MetricRegistry, host: str, port: int
    ) -> None:
        self._subject = subject
        self._address = (host, port)
        self._handler = handler
        self._server: _Server | None = None
        self._stop = threading.Event()
        registry.on_fork(self._restart_in_child)
        self._start()

    @property
    def port(self) -> int | None:
        """The port that this process serves, None while it waits for it."""
        server = self._server
        return None if server is None else int(server.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port."""
        self._stop.set()
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        self._thread.join(timeout=5.0)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._bind()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name=f"isolation-{self._subject}-port", daemon=True)
        self._thread.start()

    def _bind(self) -> _Server | None:
        with self._lock:
            if self._server is None and not self._stop.is_set():
                try:
                    self._server = _Server(self._address, self._handler)
                except OSError as error:
                    level = logging.DEBUG if error.errno == errno.EADDRINUSE else logging.WARNING
                    LOGGER.log(level, "the %s port %s:%s is not ours: %s", self._subject, *self._address, error)
            return self._server

    def _run(self, stop: threading.Event) -> None:
        while (server := self._bind()) is None:
            if stop.wait(_RETRY_S):
                return
        server.serve_forever(poll_interval=0.2)

    def _restart_in_child(self) -> None:
        # The listening socket came along; kept open here it would swallow scrapes after the parent's end.
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(OSError):
                server.socket.close()
        if not self._stop.is_set():
            self._stop = threading.Event()
            self._start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # On, a restarted service gets its port back at once; it does not let two processes listen together.
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what the base class would print into the host's stderr: a probe that gave up waiting is no defect of anybody."""
        level = logging.DEBUG if isinstance(sys.exc_info()[1], OSError) else logging.WARNING
        LOGGER.log(level, "a request to the monitor's port broke", exc_info=True)


def _handler(pages: Pages, token: str | None) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path not in PATHS:
                self._refuse(404, "Not Found", f"there is {', '.join(PATHS)}")
            elif not is_authorized(self.headers.get("authorization", ""), token):
                self._refuse(401, "Unauthorized", "send `Authorization: Bearer` with the metrics token", ("www-authenticate", "Bearer"))
            else:
                accept, encodings = self.headers.get("accept", ""), self.headers.get("accept-encoding", "")
                page = pages.get(PageRequest(PATHS[path], wants_openmetrics(accept), accepts_gzip(encodings)))
                self._answer(200, page.headers(), page.body)

        do_HEAD = do_GET

        def _refuse(self, status: int, title: str, detail: str, *extra: tuple[str, str]) -> None:
            body = problem(status, title, detail)
            self._answer(status, [("content-type", "application/problem+json"), ("content-length", str(len(body))), *extra], body)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # the base class's name
            """Say nothing: a scrape a second is no news."""

    return Handler
