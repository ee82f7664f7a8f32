"""A real collector: uvicorn in a process of its own, on a migrated SQLite file, with tokens made for the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from isolation_monitor.collector.storage.schema import migrate
from tests.real_parts.processes import free_port, running


@dataclass(frozen=True)
class Collector:
    """One running collector; `url` has no trailing slash."""

    url: str
    send_token: str
    read_token: str
    process: subprocess.Popen[bytes]

    @property
    def sending(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.send_token}"}

    @property
    def reading(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.read_token}"}


@contextlib.contextmanager
def collector(
    folder: Path,
    *,
    port: int | None = None,
    database_url: str | None = None,
    prometheus_url: str | None = None,
    migrated: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Collector]:
    """Run a collector in `folder` until the block ends; starting another one there afterwards finds the same records.

    `settings` are more of its environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    database_url = database_url or f"sqlite+aiosqlite:///{folder / 'collector.sqlite3'}"
    if migrated:
        asyncio.run(migrate(database_url))
    send_token, read_token = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    every = {
        "COLLECTOR_DATABASE_URL": database_url,
        "COLLECTOR_SEND_TOKEN": send_token,
        "COLLECTOR_READ_TOKEN": read_token,
        # Given, not lent: it has users forgotten too.
        "COLLECTOR_OPERATE_TOKEN": read_token,
        **({"COLLECTOR_PROMETHEUS_URL": prometheus_url} if prometheus_url else {}),
        **(settings or {}),
    }
    clean = {key: value for key, value in os.environ.items() if not key.startswith("COLLECTOR_")}
    command = [sys.executable, "-m", "uvicorn", "--factory", "isolation_monitor.collector.app:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    command += ["--http", "isolation_monitor.collector.http_head:BoundedHead"]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder / "collector.log", f"{url}/healthz", environment=clean | every) as process:
        yield Collector(url, send_token, read_token, process)
