"""SQLAlchemy engines: recognising them, naming their pools, and knowing which ones are watched. Imports nothing of SQLAlchemy's."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any, Final

from isolation_monitor.telemetry.errors import SettingsError

SUPPORTED: Final = ((2, 0), (2, 1))
watched: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""Engines that are instrumented now, with their pool's name; weak, so that the host's engines die when it drops them."""


def root_engine(engine: Any) -> Any:
    """Return the synchronous engine that owns the pool, for an Engine, an AsyncEngine or a copy with execution options.

    Raises:
        SettingsError: `engine` is none of these.
    """
    if is_a(engine, "AsyncEngine"):
        engine = engine.sync_engine
    if not is_a(engine, "Engine"):
        raise SettingsError(f"engine= got {type(engine).__qualname__}, which is no SQLAlchemy engine: pass the Engine or AsyncEngine")
    while is_a(engine, "OptionEngineMixin"):
        engine = engine._proxied
    return engine


def name_of(engine: Any) -> str:
    """Return how a pool is called in metrics: never with a password, nor with the path of a file."""
    given = getattr(engine.pool, "logging_name", None)
    if given:
        return str(given)
    url = engine.url
    if not url.host and url.get_backend_name() == "sqlite":
        return "sqlite"
    port = f":{url.port}" if url.port else ""
    return f"{url.drivername}://{url.host or ''}{port}/{url.database or ''}"


def name_of_any(engine: Any) -> str:
    """Return the pool name under which an engine is watched, or would be."""
    root = root_engine(engine)
    return watched.get(root) or name_of(root)


def engines_seen() -> list[str]:
    """Return the pool names of engines that exist in this process and are not watched. Walks all objects: for the doctor."""
    if "sqlalchemy" not in sys.modules:
        return []
    found = []
    for thing in gc.get_objects():
        # By type: `isinstance` would ask the host's proxies for their `__class__`.
        if is_a(thing, "Engine") and not is_a(thing, "OptionEngineMixin") and thing not in watched:
            found.append(name_of(thing))
    return sorted(found)


def pool_limit(engine: Any) -> int | None:
    """Return how many connections the engine's pool may open in this process; None where it has no limit of its own."""
    pool = root_engine(engine).pool
    if is_a(pool, "QueuePool"):
        overflow = pool._max_overflow
        return None if overflow < 0 else int(pool.size()) + int(overflow)
    return 1 if is_a(pool, "StaticPool") or is_a(pool, "AssertionPool") else None


def cleans_nothing(pool: Any) -> bool:
    """Return whether a pool hands connections on as they come back: made with `reset_on_return=None`."""
    return getattr(getattr(pool, "_reset_on_return", None), "name", "") == "reset_none"


def is_a(thing: object, class_name: str) -> bool:
    """Return whether a class of SQLAlchemy's with this name is among the ancestors; imports nothing and runs no host code."""
    return any(c.__qualname__ == class_name and c.__module__.startswith("sqlalchemy.") for c in type(thing).__mro__)


def version() -> tuple[str, tuple[int, int]]:
    import sqlalchemy

    parts = sqlalchemy.__version__.split(".")
    try:
        return sqlalchemy.__version__, (int(parts[0]), int(parts[1]))
    except (IndexError, ValueError):
        return sqlalchemy.__version__, (0, 0)


def free_name(name: str) -> str:
    """Return `name`, numbered when another watched engine has it: two pools must not write one gauge."""
    taken = set(watched.values())
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}#{number}"
    return candidate


def forget(engine: weakref.ref[Any]) -> None:
    found = engine()
    if found is not None:
        watched.pop(found, None)
