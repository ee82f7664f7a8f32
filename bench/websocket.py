"""WebSocket messages: unread, and frames that are searched for a run and for identity fields; all else is in all_detectors.py."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from bench.applications import Client, echo, monitor
from bench.rounds import Variant, measure
from bench.rows import Row
from isolation_monitor.telemetry import IsolationMonitor

BUDGET_MESSAGE_US = 1.0
BUDGET_FRAME_US = 8.0
FRAME_BYTES = 500
RAW, OURS = "raw", "isolation_monitor"


async def message(quick: bool) -> list[Row]:
    """CPU added per message of an echo; a message is one ASGI event in either direction."""
    watching = monitor(body_limit_bytes=0)
    try:
        timings = await measure(
            [Variant(RAW, _echoes(echo())), Variant(OURS, _echoes(watching.instrument(echo())))],
            rounds=4 if quick else 80,
            operations=200 if quick else 1_000,
        )
    finally:
        await watching.aclose()
    # An operation is an echo, which is two messages.
    added = timings.added(OURS, RAW)
    low, high = added.spread
    return [Row("websocket message", added.median / 2, "us", BUDGET_MESSAGE_US, spread=(low / 2, high / 2), quiet=added.quiet / 2)]


async def frame(quick: bool) -> list[Row]:
    """CPU added per frame of 500 B that is sent, read for its run, its event and an identity field."""
    watching = monitor(identity_fields=("user_id",), detectors=("foreign_content=off",))
    watching.principal(lambda scope: "user-0")
    run = watching.run("run-7", owner="user-0")
    try:
        timings = await measure(
            [Variant(RAW, _pushes(echo())), Variant(OURS, _pushes(watching.instrument(echo())))],
            rounds=4 if quick else 80,
            operations=200 if quick else 1_000,
        )
        _expect_judged(watching)
    finally:
        run.__exit__(None, None, None)
        await watching.aclose()
    added = timings.added(OURS, RAW)
    return [Row(f"websocket frame {FRAME_BYTES} B", added.median, "us", BUDGET_FRAME_US, spread=added.spread, quiet=added.quiet)]


def _expect_judged(watching: IsolationMonitor) -> None:
    from isolation_monitor.telemetry import names

    for detector in (names.WRONG_SOCKET, names.FOREIGN_IDENTITY):
        if not watching.ledger.passes[detector].value():
            raise RuntimeError(f"no frame was judged by {detector}: the benchmark measures nothing")
    if found := [v for v in watching.violations() if v.kind in (names.WRONG_SOCKET, names.FOREIGN_IDENTITY)]:
        raise RuntimeError(f"the benchmark's own frames were judged violations: {found[0].summary}")


def _echoes(app: Any) -> Callable[[int], Awaitable[None]]:
    client = Client(app)

    async def slot(n: int) -> None:
        if await client.websocket("/ws", ["hello, is the lamp on?"] * n) != n:
            raise RuntimeError("not every message was echoed")

    return slot


def _pushes(app: Any) -> Callable[[int], Awaitable[None]]:
    client, text = Client(app), _frame()

    async def slot(n: int) -> None:
        if await client.websocket("/push", [f"{n} {text}"]) != n:
            raise RuntimeError("not every frame was sent")

    return slot


def _frame() -> str:
    head = {"type": "agent_thinking", "run_id": "run-7", "user_id": "user-0", "seq": 3, "text": ""}
    return json.dumps({**head, "text": "x" * (FRAME_BYTES - len(json.dumps(head)))})
