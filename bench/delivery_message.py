"""What one event costs on a connection that asked: envelope, automaton and ledger, on a frame of 200 bytes; and what waiting costs.

The server's send is a stub, so nothing of the network is in the numbers. Acknowledgements arrive every 50 events, as from
a client at 200 events a second.
"""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any, Final

from bench.applications import monitor
from bench.rounds import Variant, measure
from bench.rows import Row
from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.context import Connection
from isolation_monitor.telemetry.delivery.negotiated import Negotiated

BUDGET_US: Final = 5.0
BUDGET_EVENT_BYTES: Final = 1_500.0
BUDGET_USER_KIB: Final = 2_048.0
FRAME_BYTES: Final = 200
ACK_EVERY: Final = 50
RAW, OURS = "raw", "isolation_monitor"


async def message(quick: bool) -> list[Row]:
    """CPU added per event: said to the automaton, wrapped, kept, acknowledged."""
    watching = monitor()
    try:
        connection, runs, frame = _connection(watching), watching.runs, _frame()
        negotiated = await _negotiated(watching, connection)
        run = watching.run("run-7", owner="user-0").__enter__()
        run.connection = connection

        async def ours(n: int) -> None:
            stream = negotiated.stream
            if stream is None:
                raise RuntimeError("the connection was not negotiated: the benchmark measures nothing")
            for i in range(n):
                run.emit("agent_thinking")
                await negotiated.send({"type": "websocket.send", "text": frame})
                runs.sent(run, "agent_thinking")
                if not i % ACK_EVERY:
                    stream.acknowledge(stream.last)
            stream.acknowledge(stream.last)

        async def raw(n: int) -> None:
            for _ in range(n):
                await _take({"type": "websocket.send", "text": frame})

        timings = await measure([Variant(RAW, raw), Variant(OURS, ours)], rounds=4 if quick else 80, operations=200 if quick else 1_000)
        run.__exit__(None, None, None)
        negotiated.close()
    finally:
        await watching.aclose()
    added = timings.added(OURS, RAW)
    return [Row("message cost", added.median, "us", BUDGET_US, spread=added.spread, quiet=added.quiet, note=f"{FRAME_BYTES} B")]


async def memory(quick: bool) -> list[Row]:
    """What an event costs while it waits, and what a user costs who never acknowledges."""
    users, events = (20, 50) if quick else (200, 100)
    watching = monitor()
    try:
        frame = _frame()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        kept = [await _negotiated(watching, _connection(watching, f"user-{n}")) for n in range(users)]
        opened = tracemalloc.get_traced_memory()[0]
        for one in kept:
            await _push(one, frame, events)
        waiting = tracemalloc.get_traced_memory()[0]
        limit = watching.settings.delivery_events
        await _push(kept[0], frame, limit)
        at_limit = tracemalloc.get_traced_memory()[0]
        await _push(kept[0], frame, 10 * limit)
        beyond = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for one in kept:
            one.close()
    finally:
        await watching.aclose()
    per_event = (waiting - opened) / (users * events)
    return [
        Row("ledger memory, an event that waits", per_event, "B", BUDGET_EVENT_BYTES, note=f"its {FRAME_BYTES} B of text included"),
        Row("ledger memory, a connection", (opened - before) / users, "B", note="that asked, with nothing waiting"),
        Row(
            "ledger memory, a user who acknowledges nothing",
            per_event * limit / 1024 + max(0, beyond - at_limit) / 1024,
            "KiB",
            BUDGET_USER_KIB,
            note=f"{11 * limit} events, {limit} kept",
        ),
    ]


async def _push(negotiated: Negotiated, frame: str, events: int) -> None:
    for _ in range(events):
        # A frame of its own for each event, as an application makes it.
        await negotiated.send({"type": "websocket.send", "text": frame[:-1] + " }"})


async def _negotiated(watching: IsolationMonitor, connection: Connection) -> Negotiated:
    negotiated = watching.delivery.negotiated(connection, _never, _take, None)
    await negotiated.send({"type": "websocket.accept"})
    return negotiated


def _connection(watching: IsolationMonitor, user: str = "user-0") -> Connection:
    return Connection(watching.principals.named(user), {"type": "websocket", "path": "/ws", "headers": []})


async def _take(message: Any) -> None:
    """Stand for the server's send."""


_never: Final[Callable[[], Awaitable[Any]]] = lambda: asyncio.get_running_loop().create_future()  # noqa: E731


def _frame() -> str:
    head = {"type": "agent_thinking", "run_id": "run-7", "user_id": "user-0", "seq": 3, "text": ""}
    return json.dumps({**head, "text": "x" * (FRAME_BYTES - len(json.dumps(head)))})
