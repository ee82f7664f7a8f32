"""SQLAlchemy 2.0 and 2.1: who has which connection of an engine's pool, how long getting one took, and how full the pool is.

Only pool events and one wrapped method per pool; no listener per statement. SQLAlchemy is never imported here: an engine
that is passed in brings it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.session_leak import SessionLeaks
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry

SUPPORTED: Final = ("2.0", "2.1")


@dataclass(slots=True)
class Instrumented:
    """What was changed for one engine, and how to undo it."""

    patches: list[Patch] = field(default_factory=list)
    undo: Callable[[], None] = lambda: None


def instrument_engine(engine: Any, leaks: SessionLeaks, registry: MetricRegistry, housekeeper: Housekeeper) -> Instrumented:
    """Watch an engine's pool; a version that is not supported is listed as a patch that is not active."""
    version = metadata.version("sqlalchemy")
    sync_engine = getattr(engine, "sync_engine", engine)
    name = pool_name(sync_engine)
    patch = Patch("sqlalchemy", version, f"pool of {name}", reversible=True, active=True)
    if ".".join(version.split(".")[:2]) not in SUPPORTED:
        patch.active = False
        patch.note = f"SQLAlchemy {version} is not supported: use {' or '.join(SUPPORTED)}"
        return Instrumented([patch])
    event: Any = sys.modules["sqlalchemy"].event
    wait = registry.histogram(names.DB_CONNECTION_WAIT, db_client_connection_pool_name=name)
    use = registry.histogram(names.DB_CONNECTION_USE, db_client_connection_pool_name=name)
    taken: dict[int, float] = {}
    clock = time.perf_counter

    def checkout(_connection: Any, record: Any, _proxy: Any) -> None:
        taken[id(record)] = clock()
        leaks.checked_out(id(record), name)

    def checkin(_connection: Any, record: Any) -> None:
        since = taken.pop(id(record), None)
        if since is not None:
            use.observe(clock() - since)
        leaks.checked_in(id(record))

    def gone(_connection: Any, record: Any, *_: Any) -> None:
        # Invalidated or detached: check-in may never be told, and the connection is no longer the pool's to lose.
        taken.pop(id(record), None)
        leaks.checked_in(id(record))

    listeners = [("checkout", checkout), ("checkin", checkin), ("detach", gone), ("invalidate", gone)]
    for identifier, listener in listeners:
        event.listen(sync_engine, identifier, listener)
    unwrap = _time_waiting(sync_engine, wait)

    def gauges(_now: float) -> None:
        pool = sync_engine.pool
        used, size = float(len(taken)), getattr(pool, "size", None)
        idle = getattr(pool, "checkedin", None)
        count = registry.gauge
        count(names.DB_CONNECTION_COUNT, db_client_connection_pool_name=name, db_client_connection_state="used").set(used)
        count(names.DB_CONNECTION_COUNT, db_client_connection_pool_name=name, db_client_connection_state="idle").set(
            float(idle()) if callable(idle) else 0.0
        )
        if callable(size):
            overflow = vars(pool).get("_max_overflow", 0)
            count(names.DB_CONNECTION_MAX, db_client_connection_pool_name=name).set(float(size() + max(0, overflow)))

    housekeeper.every_second(gauges)

    def undo() -> None:
        for identifier, listener in listeners:
            event.remove(sync_engine, identifier, listener)
        unwrap()

    return Instrumented([patch], undo)


def pool_name(sync_engine: Any) -> str:
    """Return `driver://host/database` without user or password; for SQLite the driver's name alone."""
    url = sync_engine.url
    if not url.host:
        return str(url.get_backend_name())
    return f"{url.get_backend_name()}://{url.host}/{url.database or ''}"


def _time_waiting(sync_engine: Any, wait: Any) -> Callable[[], None]:
    """Time `pool.connect` of the engine's pool, and of the pools that `dispose()` puts in its place."""
    clock = time.perf_counter
    wrapped: list[Any] = []

    def wrap(pool: Any) -> None:
        connect = pool.connect

        def timed_connect() -> Any:
            start = clock()
            connection = connect()
            wait.observe(clock() - start)
            return connection

        pool.connect = timed_connect
        wrapped.append(pool)

    wrap(sync_engine.pool)
    event: Any = sys.modules["sqlalchemy"].event

    def disposed(engine: Any) -> None:
        if engine.pool not in wrapped:
            wrap(engine.pool)

    event.listen(sync_engine, "engine_disposed", disposed)

    def undo() -> None:
        event.remove(sync_engine, "engine_disposed", disposed)
        for pool in wrapped:
            vars(pool).pop("connect", None)

    return undo
