"""Integrations: one module per outside library, found rather than required.

A library is hooked once it has been imported by the host: looked for when the application is instrumented, when it
starts to serve, and once a second. An integration that fails is counted and leaves the library as it was.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.instrument.patches import Patch

HOME: Final = "isolation_monitor.telemetry.instrument"
INTEGRATIONS: Final[tuple[tuple[str, str], ...]] = (
    # (module of the library, our module), a line each
    ("sqlalchemy.pool", "sqlalchemy_pools_seen"),
    ("redis", "redis"),
    ("asyncpg", "asyncpg"),
    ("psycopg", "psycopg"),
    ("psycopg_pool", "psycopg_pool"),
    ("psycopg2", "psycopg2"),
    ("sqlite3", "sqlite3"),
    ("aiosqlite", "aiosqlite"),
    ("asyncio", "asyncio_sync"),
    ("starlette._exception_handler", "starlette_errors"),
    ("starlette.middleware.exceptions", "starlette_steps"),
    ("asyncio", "asyncio_tasks"),
    ("asyncio", "asyncio_streams"),
    ("threading", "threads"),
    ("uvicorn.protocols.websockets.websockets_sansio_impl", "uvicorn_pongs"),
    ("uvicorn.protocols.websockets.wsproto_impl", "uvicorn_wsproto"),
    ("hypercorn.protocol.ws_stream", "hypercorn_pongs"),
    ("anyio", "anyio_threads"),
    ("anyio", "anyio_limits"),
    ("httpx", "httpx"),
    ("httpx2", "httpx2"),
    ("aiohttp", "aiohttp"),
    ("requests", "requests"),
)


@dataclass(slots=True)
class Installed:
    """What an integration did. `undo` takes everything off; `serving` runs on the event loop's thread when it starts to serve."""

    patches: list[Patch]
    undo: Callable[[], None]
    serving: Callable[[], None] | None = None


@dataclass(slots=True)
class Integrations:
    """The integrations of one monitor."""

    detection: Detection
    installed: dict[str, Installed] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    is_open: bool = True
    """False once everything was taken off: the housekeeper, which may be on its way at that very moment, then hooks nothing."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def look(self) -> None:
        """Hook every library that is there by now and not hooked yet."""
        with self._lock:
            if self.is_open:
                self._look()

    def _look(self) -> None:
        for library, home in INTEGRATIONS:
            if library in sys.modules and home not in self.installed and home not in self.failed:
                try:
                    self.installed[home] = importlib.import_module(f"{HOME}.{home}").install(self.detection)
                except Exception as error:
                    self.failed.add(home)
                    self.detection.ledger.internal_error("detector", error)

    def serving(self) -> None:
        """Called on the event loop's thread when the server starts."""
        self.look()
        for one in self.installed.values():
            if one.serving is not None:
                try:
                    one.serving()
                except Exception as error:
                    self.detection.ledger.internal_error("detector", error)

    @property
    def patches(self) -> list[Patch]:
        return [patch for one in self.installed.values() for patch in one.patches]

    def undo(self) -> None:
        with self._lock:
            self.is_open = False
            # The latest first: two integrations may have patched one method.
            for one in reversed(self.installed.values()):
                try:
                    one.undo()
                except Exception as error:
                    self.detection.ledger.internal_error("detector", error)
                for patch in one.patches:
                    patch.active = False
            self.installed.clear()
