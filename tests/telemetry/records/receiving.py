"""A real HTTP server in the collector's place, that answers as a test says."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from isolation_monitor.telemetry.records.spool import Spool


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.status = 200
        self.delay_s = 0.0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.attempts = 0
        self.answered = 0
        self.close_after_answer = False
        self.limit = 10_000
        """Larger batches are refused with 413."""
        self.chokes_on: object = None
        """A batch with a record of this id is answered 500."""
        self.refuses: object = None
        """A batch with a record of this id is answered 400."""
        self.headers: dict[str, str] = {}
        self.instances: set[str] = set()
        self.answer: Callable[[list[dict[str, Any]]], bytes] = lambda records: b'{"rejected": []}'
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.attempts += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                time.sleep(server.delay_s)
                server.may_answer.wait(60)
                batch = json.loads(body)
                status = server.status
                if len(batch["records"]) > server.limit:
                    status = 413
                if server.chokes_on in [record["id"] for record in batch["records"]]:
                    status = 500
                if server.refuses in [record["id"] for record in batch["records"]]:
                    status = 400
                if status == 200:
                    server.stored += batch["records"]
                    server.instances.add(batch["instance"])
                answer = server.answer(batch["records"])
                self.send_response(status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                server.answered += 1
                # Without saying so in a header: as an idle timeout does.
                self.close_connection = server.close_after_answer

            def log_message(self, format: str, *args: Any) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@contextlib.contextmanager
def held(spool: Spool) -> Iterator[None]:
    """Hold the disk: what a hanging fsync does to everybody else who wants the spool."""
    have, release = threading.Event(), threading.Event()

    def keep() -> None:
        with spool._lock:
            have.set()
            release.wait(60)

    thread = threading.Thread(target=keep)
    thread.start()
    have.wait()
    try:
        yield
    finally:
        release.set()
        thread.join()
