"""Pages: rendered text of a registry, made at most five times a second however many scrapers ask, and by one thread at a time."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isolation_monitor.telemetry.metrics.exposition import CLASSIC_TYPE, OPENMETRICS_TYPE
from isolation_monitor.telemetry.metrics.registry import MetricRegistry, Page

CACHE_S: Final = 0.2
GZIP_FROM_BYTES: Final = 16_384
"""Smaller pages are sent as they are: they travel in one or two packets of a local network."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which families, in which format, and whether the scraper takes gzip."""

    endpoint: Page
    openmetrics: bool = False
    is_gzip_accepted: bool = False


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """A page ready to send."""

    body: bytes
    content_type: str
    is_gzipped: bool

    def headers(self) -> list[tuple[str, str]]:
        """The headers of the answer."""
        found = [
            ("content-type", self.content_type),
            ("content-length", str(len(self.body))),
            ("cache-control", "no-store"),
            ("vary", "accept, accept-encoding"),
        ]
        return [*found, ("content-encoding", "gzip")] if self.is_gzipped else found


class Pages:
    """The pages of a registry, cached for `cache_s`."""

    def __init__(self, registry: MetricRegistry, *, cache_s: float = CACHE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._cache_s = cache_s
        self._clock = clock
        self._cached: dict[PageRequest, tuple[float, RenderedPage]] = {}
        self._lock = threading.Lock()
        registry.on_fork(self._forget)

    def get(self, request: PageRequest) -> RenderedPage:
        """Return the page; a second caller waits for the first and gets its page. Call from a worker thread."""
        with self._lock:
            cached = self._cached.get(request)
            if cached is not None and 0 <= self._clock() - cached[0] < self._cache_s:
                return cached[1]
            # The time before rendering: nothing older than `cache_s` is ever sent.
            now = self._clock()
            page = self._render(request)
            self._cached[request] = (now, page)
            return page

    def _render(self, request: PageRequest) -> RenderedPage:
        body = self._registry.render(request.endpoint, request.openmetrics)
        is_gzipped = request.is_gzip_accepted and len(body) >= GZIP_FROM_BYTES
        if is_gzipped:
            # Level 1: a tenth of the time of the default for a slightly larger body.
            body = gzip.compress(body, compresslevel=1, mtime=0)
        return RenderedPage(body, OPENMETRICS_TYPE if request.openmetrics else CLASSIC_TYPE, is_gzipped)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._cached.clear()
