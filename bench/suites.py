"""The suites by name, in the order in which they run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from bench import (
    all_detectors,
    collector_away,
    delivery_message,
    flags,
    http_core,
    memory,
    own_stretch,
    record_put,
    run_ids,
    sqlalchemy_session,
    websocket,
)
from bench.rows import Row

Suite = Callable[[bool], Coroutine[Any, Any, list[Row]]]


async def scrape(quick: bool) -> list[Row]:
    """The rows of bench/scrape.py, off the event loop: it starts workers and waits for them."""
    try:
        from bench import scrape as measured
    except ImportError as error:
        return [Row("scrape", None, "ms", note=f"cannot run here: {error}")]
    rows = cast("list[Any]", await asyncio.to_thread(measured.rows, quick))
    return [row if isinstance(row, Row) else Row.from_json(row) for row in rows]


SUITES: dict[str, Suite] = {
    "http-core": http_core.core,
    "http-core-calls": http_core.calls,
    "http-body": http_core.body,
    "websocket-message": websocket.message,
    "websocket-frame": websocket.frame,
    "delivery-message": delivery_message.message,
    "delivery-memory": delivery_message.memory,
    "http-all-detectors": all_detectors.http_core,
    "http-all-detectors-json": all_detectors.http_json,
    "websocket-frame-all-detectors": all_detectors.websocket_frame,
    "memory": memory.memory,
    "own-stretch": own_stretch.stretch,
    "record-put": record_put.put,
    "run-ids": run_ids.resolution,
    "flags": flags.evaluation,
    "flag-changes": flags.change,
    "sqlalchemy-session": sqlalchemy_session.session,
    "scrape": scrape,
    "collector-away": collector_away.away,
}
