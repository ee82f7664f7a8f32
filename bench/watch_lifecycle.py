"""Start-up and clean-up of the reference service, and what the lifecycle costs while nothing happens.

Ready and clean-up times are of a real uvicorn with one worker, from the start of the process to the first 200 of `/readyz`, and from
SIGTERM to its end. The idle cost is the processor time of the lifecycle's tick and pulse, which run once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from bench.rows import Row
from isolation_monitor.telemetry import IsolationMonitor
from tests.real_parts.processes import free_port

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
READY_BUDGET_S: Final = 30.0
CLEANUP_BUDGET_S: Final = 5.0
"""Requirement R12."""
IDLE_BUDGET_US: Final = 1_000.0
"""A thousandth of one core."""
LIMIT_S: Final = 120.0


async def rows(quick: bool = False) -> list[Row]:
    """Return the rows: ready time, clean-up time, idle cost."""
    starts = []
    for _ in range(1 if quick else 5):
        with tempfile.TemporaryDirectory(prefix="bench-lifecycle-") as folder:
            starts.append(await _live(Path(folder)))
    ready, ended = [one[0] for one in starts], [one[1] for one in starts]
    return [
        Row("chat: ready", statistics.median(ready), "s", READY_BUDGET_S, spread=(min(ready), max(ready))),
        Row("chat: ended after SIGTERM", statistics.median(ended), "s", CLEANUP_BUDGET_S, spread=(min(ended), max(ended))),
        await idle(200 if quick else 5_000),
    ]


async def _live(folder: Path) -> tuple[float, float]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "ISOLATION_", "OTEL_"))} | {
        "CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'chat.sqlite3'}",
        "CHAT_SECRET_FILE": str(folder / "chat.secret"),
        "ISOLATION_METRICS_DIR": str(folder / "metrics"),
        "ISOLATION_SPOOL_DIR": "",
        "ISOLATION_HASH_KEY": "only-for-the-benchmark",
    }
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "chat.app:app", "--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "critical",
        env=environment, cwd=folder,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await asyncio.to_thread(_is_ready, f"http://127.0.0.1:{port}/readyz"):
                if process.returncode is not None:
                    raise RuntimeError(f"the chat did not start: exit code {process.returncode}")
                await asyncio.sleep(0.02)
            ready_s = time.monotonic() - began
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            await process.wait()
            return ready_s, time.monotonic() - began
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _is_ready(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


async def idle(looks: int) -> Row:
    """Return the processor time of one tick and the loop's answer, measured over so many."""
    with tempfile.TemporaryDirectory(prefix="bench-lifecycle-") as folder:
        monitor = IsolationMonitor.from_env(
            service="bench", hash_key="only-for-the-benchmark", metrics_dir=folder, collector_url="", lifecycle_signals="off"
        )
        try:
            monitor.lifecycle.phase("nothing")(lambda: None)
            async with monitor.lifecycle:
                began = time.process_time()
                for _ in range(looks):
                    monitor.lifecycle._tick(time.monotonic())
                    # The answer of the loop belongs to it.
                    await asyncio.sleep(0)
                spent_us = (time.process_time() - began) / looks * 1e6
        finally:
            await monitor.aclose()
    return Row("idle, ready", spent_us, "us of processor time a second", IDLE_BUDGET_US, note="nothing is added to a request")
