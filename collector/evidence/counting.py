"""Why batches were refused, counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from isolation_monitor.collector.evidence.intake import Overloaded
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.problems import (
    Forbidden,
    MalformedBody,
    Problem,
    RequestTimeout,
    TooLarge,
    TooManyRequests,
    Unavailable,
    UnsupportedMedia,
)
from isolation_monitor.collector.storage.database import StoreUnavailable

_REASONS: Final[dict[type[Exception], str]] = {
    MalformedBody: "malformed",
    TooLarge: "too_large",
    UnsupportedMedia: "media",
    RequestTimeout: "timeout",
    Forbidden: "token",
    TooManyRequests: "too_fast",
    Overloaded: "overloaded",
    Unavailable: "store_unavailable",
    StoreUnavailable: "store_unavailable",
}


@contextmanager
def counted(metrics: CollectorMetrics) -> Iterator[None]:
    """Count a batch that the block refuses by an exception, which goes on."""
    try:
        yield
    except Exception as error:
        metrics.batch_refused(_REASONS.get(type(error), "invalid" if isinstance(error, Problem) else "defect"))
        raise
