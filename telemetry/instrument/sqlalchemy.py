"""SQLAlchemy 2.0 and 2.1: what is watched of an engine, and how it is taken off again.

Works for Engine and AsyncEngine. The pool's events and waits are in `sqlalchemy_pool.py`, sessions and connections that two
owners use in `sqlalchemy_session.py`, rows for provenance in `sqlalchemy_reads.py`. Nothing runs per statement of an
ordinary session.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry.instrument.patches import Patch
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import (
    SUPPORTED,
    engines_seen,
    forget,
    free_name,
    is_a,
    name_of,
    name_of_any,
    pool_limit,
    root_engine,
    version,
    watched,
)
from isolation_monitor.telemetry.instrument.sqlalchemy_handover import Handover, Notes
from isolation_monitor.telemetry.instrument.sqlalchemy_pool import EVENTS, Gauges, Listeners, PoolTimer, StaticListeners
from isolation_monitor.telemetry.instrument.sqlalchemy_session import SessionWatch

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

__all__ = ["Uninstrument", "engines_seen", "instrument_engine", "name_of", "name_of_any", "pool_limit", "root_engine"]

logger = logging.getLogger("isolation_monitor")


@dataclass(slots=True)
class Uninstrument:
    """What was done to one engine, and how to undo it. `reason` says why nothing was done; empty when it is watched."""

    pool_name: str
    patches: list[Patch]
    reason: str = ""
    steps: list[Callable[[], None]] = field(default_factory=list)

    def undo(self) -> None:
        """Take every hook off again; a second call does nothing."""
        while self.steps:
            self.steps.pop()()
        for patch in self.patches:
            patch.active = False


def instrument_engine(engine: Any, detection: Detection, *, pool_name: str | None = None) -> Uninstrument:
    """Watch the pool of a SQLAlchemy Engine or AsyncEngine; an engine that is watched already is left as it is.

    Args:
        pool_name: name in metrics and evidence; by default `pool_logging_name`, else driver, host and database.

    Raises:
        SettingsError: `engine` is no SQLAlchemy engine.
    """
    root = root_engine(engine)
    found = version()
    if found[1] not in SUPPORTED:
        reason = f"SQLAlchemy {found[0]} is not supported: sessions are not watched (supported: 2.0 and 2.1)"
        logger.warning("isolation monitor: %s", reason)
        return Uninstrument("", [Patch("sqlalchemy", found[0], "engine.pool", reversible=True, active=False, note=reason)], reason)
    if root in watched:
        return Uninstrument(watched[root], [], "it is watched already")
    name = free_name(pool_name or name_of(root))
    done = Uninstrument(
        name,
        [
            Patch("sqlalchemy", found[0], f"pool events {', '.join(EVENTS)} of {name}", reversible=True, active=True),
            Patch("sqlalchemy", found[0], f"pool.connect and pool.recreate of {name}", reversible=True, active=True),
        ],
    )
    try:
        _watch(root, name, detection, done)
    except Exception as error:
        # A guest in its host: a pool that cannot be watched still serves the application.
        done.undo()
        detection.leaks.failed(error)
        done.reason = f"watching failed: {error!r}"
        done.patches[0].note = done.reason
    return done


def _watch(root: Any, name: str, detection: Detection, done: Uninstrument) -> None:
    leaks, registry, steps = detection.leaks, detection.kit.registry, done.steps
    reference = weakref.ref(root)
    watched[root] = name
    steps.append(lambda: forget(reference))
    sessions = _sessions_of(detection, done)
    gauges = Gauges(reference, leaks, registry, name)
    steps.append(gauges.stop)
    listeners = (StaticListeners if is_a(root.pool, "StaticPool") else Listeners)(
        root, leaks, registry, name, sessions, Notes(detection, name)
    )
    steps.append(lambda: listeners.stop(reference))
    listeners.listen(root)
    handover = Handover(detection, name)
    if handover.listen(root):
        steps.append(lambda: handover.stop(reference))
        done.patches.append(
            Patch("sqlalchemy", version()[0], f"pool events checkin and checkout of {name} (no reset)", reversible=True, active=True)
        )
    timer = PoolTimer(leaks, registry, name)
    steps.append(lambda: timer.stop(reference))
    timer.wrap(root.pool)
    detection.kit.housekeeper.every_second(gauges.read)


_watches: weakref.WeakKeyDictionary[Detection, SessionWatch] = weakref.WeakKeyDictionary()


def _sessions_of(detection: Detection, done: Uninstrument) -> SessionWatch:
    """Return the watch over sessions that all engines of one monitor share; the first engine starts and ends it."""
    watch = _watches.get(detection)
    if watch is None:
        _watches[detection] = watch = SessionWatch(detection)
        done.steps.append(lambda: _end(detection, watch))
        watch.start()
        done.patches.extend(watch.patches)
    return watch


def _end(detection: Detection, watch: SessionWatch) -> None:
    _watches.pop(detection, None)
    watch.stop()
