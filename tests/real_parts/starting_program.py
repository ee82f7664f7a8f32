"""A worker that starts in phases and cleans up: `python -m tests.real_parts.starting_program CONDUCT FOLDER`.

`hangs`: its database is locked until FOLDER/unlocked is there. `fails`: its database refuses. `leaves`: it cleans up and leaves a task and
a child behind. It takes the collector's address and token from the environment, as any service.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from isolation_monitor.telemetry import IsolationMonitor


async def take_lock(unlocked: Path) -> None:
    """Wait as for an advisory lock that another worker's migration holds."""
    while not await asyncio.to_thread(unlocked.exists):  # noqa: ASYNC110  # told by another process
        await asyncio.sleep(0.05)


async def main(conduct: str, folder: Path) -> None:
    monitor = IsolationMonitor.from_env(
        service="checkout", hash_key="only-for-a-test", metrics_dir=str(folder / "metrics"), spool_dir=str(folder / "spool"),
        startup_hang_s=0.5,
    )  # fmt: skip
    life = monitor.lifecycle

    @life.phase("settings")
    async def read_settings() -> None:
        await asyncio.sleep(0.03)

    @life.phase("database", after=["settings"])
    async def migrate() -> None:
        if conduct == "hangs":
            await take_lock(folder / "unlocked")
        if conduct == "fails":
            raise ConnectionRefusedError("nobody listens at 127.0.0.1:5432")
        await asyncio.sleep(0.2)

    @life.phase("model", after=["settings"])
    async def load_model() -> None:
        await asyncio.sleep(0.12)

    @life.cleanup("database")
    async def disconnect() -> None:
        await asyncio.sleep(0.05)

    async def follow_prices() -> None:
        await asyncio.Event().wait()

    forgotten: list[object] = []
    try:
        async with life:
            if conduct == "leaves":
                forgotten.append(asyncio.create_task(follow_prices()))
                # It ends with this process, whose end of the pipe it reads.
                forgotten.append(await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE))
    except ConnectionRefusedError:
        pass
    await monitor.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
