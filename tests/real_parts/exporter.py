"""Small exporters: HTTP pages of counters that a test moves, one per instance of a service."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.real_parts.processes import eventually


@dataclass
class Exporter:
    """One page of samples. `address` is host:port; every path serves the same page."""

    address: str
    samples: dict[str, float] = field(default_factory=dict)
    scrapes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, series: str, amount: float = 0) -> None:
        """Move a series, `name{label="value"}`, by an amount; a new one is born with it."""
        with self._lock:
            self.samples[series] = self.samples.get(series, 0) + amount

    def page(self) -> bytes:
        with self._lock:
            self.scrapes += 1
            return "".join(f"{series} {value:g}\n" for series, value in self.samples.items()).encode()


@contextlib.contextmanager
def exporters(number: int) -> Iterator[list[Exporter]]:
    """Serve so many pages on free ports until the block ends."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_exporter()) for _ in range(number)]


def scraped_twice(*workers: Exporter) -> None:
    """Wait until every page of now was read, twice: a page being read may be the old one."""
    before = [worker.scrapes for worker in workers]
    eventually(
        lambda: all(worker.scrapes >= seen + 2 for worker, seen in zip(workers, before, strict=True)),
        "every worker is scraped twice",
    )


@contextlib.contextmanager
def _exporter() -> Iterator[Exporter]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = exporter.page()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    exporter = Exporter(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield exporter
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
