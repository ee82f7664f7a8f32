"""Integrations: one module per outside library, found rather than required.

A library is hooked once it has been imported by the host: looked for when the application is instrumented, when it
starts to serve, and once a second. An integration that fails is counted and leaves the library as it was.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.instrument.patches import Patch

LONGEST_WAIT_S: Final = 2.0
"""A fork waits at most so long for a look that is under way; most take less than a millisecond, the first one up to a tenth of a second."""
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


@dataclass(slots=True, weakref_slot=True)
class Integrations:
    """The integrations of one monitor."""

    detection: Detection
    installed: dict[str, Installed] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    is_open: bool = True
    """False once everything was taken off: the housekeeper, which may be on its way at that very moment, then hooks nothing."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        if hasattr(os, "register_at_fork"):
            before, parent, child = (weakref.WeakMethod(one) for one in (self._before_fork, self._after_fork, self._after_fork_in_child))
            os.register_at_fork(before=lambda: _call(before), after_in_parent=lambda: _call(parent), after_in_child=lambda: _call(child))

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

    # A look imports, perhaps on a thread of ours: a fork meanwhile would leave the import's lock held in the child for ever.

    def _before_fork(self) -> None:
        self._lock.acquire(timeout=LONGEST_WAIT_S)

    def _after_fork(self) -> None:
        # Where the wait was in vain, the lock is another thread's.
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()

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


# --- helpers ----------------------------------------------------------------------------------------------------------


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    alive = method()
    if alive is not None:
        alive()
