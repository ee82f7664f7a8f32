"""The service of `bench.delivery`: each connection gets an event every while; what was handed over is counted apart from the monitor.

Run by uvicorn as `bench.delivery_service:app`. `BENCH_FOLDER` holds the counts: one file per process with the events whose
`send` returned, in shared memory so that they survive a kill, and one that names the process's epoch.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from isolation_monitor.telemetry import IsolationMonitor

LINGER_EVENTS: Final = 3
"""Events that the application still sends to a connection after it was told that it is gone, as a run does that goes on."""
SLOW_TEXT: Final = "x" * 4_000

folder: Final = Path(os.environ["BENCH_FOLDER"])
stop: Final = Path(os.environ["BENCH_STOP"])
"""There when the sending shall end."""
every_s: Final = float(os.environ["BENCH_EVERY_S"])
monitor: Final = IsolationMonitor.from_env(service="bench")


class Returned:
    """Events whose `send` returned, in a file."""

    def __init__(self) -> None:
        self._path = folder / f"returned-{os.getpid()}"
        self._path.write_bytes(bytes(mmap.PAGESIZE))
        with self._path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), mmap.PAGESIZE)).cast("Q")

    def count(self) -> None:
        self._numbers[0] += 1


@monitor.principal
def user_of(scope: Any) -> str | None:
    return parse_qs(scope["query_string"].decode()).get("user", [None])[0]


async def serve(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    (folder / f"epoch-{os.getpid()}").write_text(monitor.delivery.retention.epoch)
    user = user_of(scope) or ""
    gone = asyncio.Event()
    emitting = asyncio.create_task(_emit(send, user, gone))
    while (await receive())["type"] == "websocket.receive":
        pass
    gone.set()
    await emitting


async def _emit(send: Any, user: str, gone: asyncio.Event) -> None:
    left, n = LINGER_EVENTS, 0
    while left and not stop.exists():
        n += 1
        text = SLOW_TEXT if user.startswith("slow") else "x" * 100
        await send({"type": "websocket.send", "text": json.dumps({"type": "agent_thinking", "user_id": user, "n": n, "text": text})})
        returned.count()
        if gone.is_set():
            left -= 1
        await asyncio.sleep(every_s)


async def _lifespan(receive: Any, send: Any) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


returned: Final = Returned()
app: Final = monitor.instrument(serve)
