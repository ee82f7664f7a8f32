"""The service of `bench.watch_conditions`: small, instrumented, with one start-up phase and one step of the clean-up.

Run by uvicorn as `bench.watch_service:create_app --factory`. `WATCH_CONDUCT` says what goes wrong in this process: `well`, `hangs` or
`fails` in its phase, `leaves` a child behind or is `slow` in its clean-up. Its phase makes the file `WATCH_MOMENT`, with the Unix time.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from isolation_monitor.telemetry import IsolationMonitor

SERVICE: Final = "bench-watch"
PHASE: Final = "database"
SLOW_CLEANUP_S: Final = 6.0


def create_app() -> Any:  # Any: an ASGI application
    """Return the application of one process."""
    conduct, moment = os.environ["WATCH_CONDUCT"], Path(os.environ["WATCH_MOMENT"])
    monitor = IsolationMonitor.from_env(service=SERVICE, cleanup_limit_s=2 * SLOW_CLEANUP_S)

    @monitor.lifecycle.phase(PHASE)
    async def connect() -> None:
        _write(moment)
        if conduct == "hangs":
            await asyncio.Event().wait()
        if conduct == "fails":
            raise ConnectionRefusedError("nobody listens")

    @monitor.lifecycle.cleanup(PHASE, timeout_s=2 * SLOW_CLEANUP_S)
    async def disconnect() -> None:
        if conduct == "slow":
            await asyncio.sleep(SLOW_CLEANUP_S)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        """Know no path, so that metrics and health are the monitor's to answer; the lifespan is that of its lifecycle."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def lifespan(receive: Any, send: Any) -> None:
        await receive()
        try:
            async with monitor.lifecycle:
                await send({"type": "lifespan.startup.complete"})
                await receive()
                if conduct == "leaves":
                    _leave_a_child()
        except ConnectionRefusedError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        finally:
            await monitor.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    return monitor.instrument(serve)


def _write(moment: Path) -> None:
    draft = moment.with_suffix(".draft")
    draft.write_text(str(time.time()), encoding="utf-8")
    draft.replace(moment)


def _leave_a_child() -> None:
    # It ends with this process, whose end of the pipe it reads.
    subprocess.Popen(["cat"], stdin=subprocess.PIPE)
