"""What a collector must not be: it answers 200 before anything is stored. `python early_collector.py PORT URL`; hands batches on to URL."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BATCHES: queue.SimpleQueue[tuple[bytes, dict[str, str]]] = queue.SimpleQueue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        BATCHES.put((body, {name: self.headers[name] for name in ("Authorization", "Content-Type")}))
        answer = b'{"rejected": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        return


def hand_on(url: str) -> None:
    while True:
        body, headers = BATCHES.get()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(f"{url}/v1/records", body, headers, method="POST"), timeout=60).close()


if __name__ == "__main__":
    threading.Thread(target=hand_on, args=(sys.argv[2],), daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
