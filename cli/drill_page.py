"""The page that a drill shows to Prometheus: one HTTP server, for each alert an invented service with its own samples.

The targets are announced in files that Prometheus watches. Their labels name the invented service, so nothing that the
page says can be taken for a real one's.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from isolation_monitor.alerts.drills import Endpoint, Job, Recipe

ISOLATION_PATH: Final = "/metrics/isolation"
SCRAPES_BEFORE: Final = 2
"""Pages that Prometheus must have read while all was well: a fault before that would be the series' birth."""


@dataclass
class DrillTarget:
    """One invented service: what it shows, and since when it is broken (`time.monotonic()`)."""

    alert: str
    service: str
    recipe: Recipe
    broken_at: float | None = None
    healed_at: float | None = None
    scrapes: dict[Endpoint, int] = field(default_factory=lambda: defaultdict(int))

    def page(self, endpoint: Endpoint) -> bytes | None:
        """Return the page as it is now; None when it does not answer."""
        self.scrapes[endpoint] += 1
        is_broken = self.broken_at is not None and self.healed_at is None
        if self.recipe.dies and is_broken:
            return None
        # A healed counter stands still; counters never go back.
        broken_for_s = None if self.broken_at is None else (self.healed_at or time.monotonic()) - self.broken_at
        lines = (
            f"{sample.name}{{{_labels(sample.labels)}}} {sample.value(broken_for_s)!r}\n"
            for sample in self.recipe.samples
            if sample.endpoint == endpoint
        )
        return "".join(lines).encode()

    def is_known(self) -> bool:
        """Return whether Prometheus has read every page of it that carries samples."""
        wanted = {sample.endpoint for sample in self.recipe.samples} or {"isolation" if self.recipe.job == "services" else "main"}
        return all(self.scrapes[endpoint] >= SCRAPES_BEFORE for endpoint in wanted)


@contextlib.contextmanager
def serving(targets: Sequence[DrillTarget], listen: str) -> Iterator[int]:
    """Serve the pages on a free port of the address `listen` until the block ends; give the port."""
    by_service = {target.service: target for target in targets}

    class Pages(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            target = by_service.get(parse_qs(url.query).get("drill", [""])[0])
            body = target.page("isolation" if url.path == ISOLATION_PATH else "main") if target is not None else None
            self.send_response(503 if body is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((listen, 0), Pages)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextlib.contextmanager
def announced(targets: Sequence[DrillTarget], folder: Path, address: str, run: str) -> Iterator[None]:
    """Tell Prometheus of the targets at `address` (host:port), by files in `folder`, until the block ends.

    Raises:
        OSError: the folder is not there or cannot be written.
    """
    files: list[Path] = []
    try:
        for job in ("services", "collector"):
            chosen = [target for target in targets if target.recipe.job == job]
            if chosen:
                file = folder / job / f"drill-{run}.json"
                # Under another ending first: Prometheus must not read half a file.
                draft = file.with_suffix(".draft")
                files += [file, draft]
                draft.write_text(json.dumps([_announcement(target, address, job) for target in chosen]), encoding="utf-8")
                # Prometheus may run as another user.
                draft.chmod(0o644)
                draft.replace(file)
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _announcement(target: DrillTarget, address: str, job: Job) -> dict[str, object]:
    labels = {"service": target.service, "instance": target.service, "__param_drill": target.service}
    if job == "collector":
        # Each is a collector by itself: that another drill's answers must not hide that this one is down.
        labels |= {"synthetic": "true", "drill": target.alert}
    return {"targets": [address], "labels": labels}


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{label}="{value}"' for label, value in labels.items())
