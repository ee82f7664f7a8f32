"""SQLAlchemy pools: events tell which connections are out, a timed `pool.connect` tells how long getting one took.

Works for every pool class. No listener runs per statement: an engine-level event would switch on SQLAlchemy's slower
path for all of them, so the pool is followed through `dispose()` by its own `recreate`.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import is_a, pool_limit

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from isolation_monitor.telemetry.detectors.session_leak import SessionLeaks
    from isolation_monitor.telemetry.instrument.sqlalchemy_handover import Notes
    from isolation_monitor.telemetry.instrument.sqlalchemy_session import SessionWatch
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.stacks import RawStack

_FRAMES: Final = 4
"""Frames kept of a checkout's stack, from the first that is not SQLAlchemy's."""
_HOOK_FRAMES: Final = 4
"""Frames between `sys._getframe` and our wrapper of `pool.connect`: ours, and SQLAlchemy's event and checkout."""
EVENTS: Final = ("checkout", "checkin", "invalidate", "detach", "close_detached")
_UNKNOWN: Final = (_HOOK_FRAMES, None, -1)
_entrance: tuple[int, CodeType | None, int] = _UNKNOWN
"""Where the last checkout entered SQLAlchemy: how deep the caller's frame lay, its code and its instruction."""
_clock = time.perf_counter


# --- events -------------------------------------------------------------------------------------------------------------


class Listeners:
    """One pool's event listeners. A listener that fails is counted; an exception here would break the host's checkout."""

    def __init__(self, engine: Any, leaks: SessionLeaks, registry: MetricRegistry, name: str, sessions: SessionWatch, notes: Notes) -> None:
        self._leaks = leaks
        self._sessions = sessions
        self._notes = notes
        self._name = name
        self._stack = _stack_behind_greenlet if engine.dialect.is_async else _stack
        self._use = registry.histogram(names.DB_CONNECTION_USE, db_client_connection_pool_name=name)
        self.functions: dict[str, Callable[..., None]] = {
            "checkout": self._make_checkout(),
            "checkin": self._make_checkin(),
            # A hard invalidation closes the connection. A soft one does not: it comes back by checkin as always.
            "invalidate": self._invalidated,
            "detach": self._detached,
            # For a detached connection there is no checkin.
            "close_detached": self._closed_detached,
        }

    def listen(self, engine: Any) -> None:
        from sqlalchemy import event

        for identifier, function in self.functions.items():
            event.listen(engine, identifier, function)

    def stop(self, of_engine: weakref.ref[Any]) -> None:
        from sqlalchemy import event

        engine = of_engine()
        if engine is not None:
            for identifier, function in self.functions.items():
                if event.contains(engine, identifier, function):
                    event.remove(engine, identifier, function)

    def _make_checkout(self) -> Callable[..., None]:
        leaks, name, stack, checked_out, ref = self._leaks, self._name, self._stack, self._leaks.checked_out, weakref.ref
        sessions, settle = self._sessions, self._sessions.settle
        fresh, outside, popleft = sessions.fresh, sessions.outside, sessions.fresh.popleft

        def checkout(_connection: Any, record: Any, handle: Any) -> None:
            try:
                try:
                    oldest = popleft() if fresh else None
                except IndexError:
                    # Another thread took it.
                    oldest = None
                # Nearly always that session is gone already: seen here, because a call would double the cost.
                if outside or (oldest is not None and oldest[0] in sessions.live):
                    settle(oldest)
                checked_out(id(record), name, stack(), ref(handle, _nothing))
            except Exception as error:
                leaks.failed(error)

        return checkout

    def _make_checkin(self) -> Callable[..., None]:
        leaks, checked_in, use, look = self._leaks, self._leaks.checked_in, self._use, self._notes.look

        def checkin(connection: Any, record: Any) -> None:
            try:
                used_s = checked_in(id(record))
                if used_s is not None:
                    use.observe(used_s)
                # A detached connection has no record left, and what the driver made of it no such attribute.
                if record is not connection and (info := record.__dict__.get("info")):
                    look(record, info)
            except Exception as error:
                leaks.failed(error)

        return checkin

    def _invalidated(self, connection: Any, record: Any, _exception: Any) -> None:
        self.functions["checkin"](connection, record)

    def _detached(self, connection: Any, record: Any) -> None:
        try:
            self._leaks.detached(id(record), id(connection))
        except Exception as error:
            self._leaks.failed(error)

    def _closed_detached(self, connection: Any) -> None:
        self.functions["checkin"](connection, connection)


class StaticListeners(Listeners):
    """A StaticPool hands one connection to several holders at once: each holder is tracked, by its handle.

    Its checkin event does not say which holder gave back, so that is known only when one is left.
    """

    def _make_checkout(self) -> Callable[..., None]:
        leaks, name, stack, ref = self._leaks, self._name, self._stack, weakref.ref
        sessions = self._sessions
        self._holders: dict[int, weakref.ref[Any]] = {}

        def checkout(_connection: Any, _record: Any, handle: Any) -> None:
            try:
                sessions.settle(sessions.oldest())
                self._holders[id(handle)] = reference = ref(handle, _nothing)
                leaks.checked_out(id(handle), name, stack(), reference)
            except Exception as error:
                leaks.failed(error)

        return checkout

    def _make_checkin(self) -> Callable[..., None]:
        leaks, use = self._leaks, self._use

        def checkin(_connection: Any, _record: Any) -> None:
            try:
                live = {}
                for key, reference in list(self._holders.items()):
                    handle = reference()
                    if handle is not None and handle.is_valid:
                        live[key] = reference
                if len(live) == 1:
                    used_s = leaks.checked_in(live.popitem()[0])
                    if used_s is not None:
                        use.observe(used_s)
                self._holders = live
            except Exception as error:
                leaks.failed(error)

        return checkin


def _nothing(_reference: Any) -> None:
    """Make a weak reference with a callback: the collector clears those before any finalizer of SQLAlchemy's runs."""


def _stack() -> RawStack:
    """Return who asked SQLAlchemy for a connection, innermost first.

    Every frame that Python has to make an object of costs here and again when it returns, so SQLAlchemy's own are jumped
    over. Most calls come by the same way as the last one: then one look finds the place.
    """
    global _entrance
    depth, caller, line = _entrance
    outside: FrameType | None
    try:
        outside = sys._getframe(depth)
        # The same line, as deep as the last time: what lies below it is SQLAlchemy's, as it was then.
        is_usual = outside.f_code is caller and outside.f_lasti == line
    except ValueError:
        # The stack is shallower than the last one.
        is_usual = False
    if not is_usual:
        depth = _HOOK_FRAMES
        frame = sys._getframe(depth)
        while (outside := frame.f_back) is not None and _is_inside(outside):
            frame = outside
            depth += 1
        _entrance = (depth + 1, outside.f_code, outside.f_lasti) if outside is not None else _UNKNOWN
    # Written out: a loop would cost as much again.
    if outside is None or (second := outside.f_back) is None or (third := second.f_back) is None or (fourth := third.f_back) is None:
        return _few(outside)
    return (
        (outside.f_code, outside.f_lasti),
        (second.f_code, second.f_lasti),
        (third.f_code, third.f_lasti),
        (fourth.f_code, fourth.f_lasti),
    )


def _few(frame: FrameType | None) -> RawStack:
    """Return the frames of a stack that is not as high as what is kept of others: a thread's."""
    taken = []
    while frame is not None:
        taken.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(taken)


def _stack_behind_greenlet() -> RawStack:
    """Return the same for an asynchronous engine: its driver runs in a greenlet, and the application waits outside of it."""
    driver = sys.modules["greenlet"].getcurrent().parent
    frame: FrameType | None = driver.gr_frame if driver is not None else None
    if frame is None:
        return _stack()
    taken = []
    # Two or three of these are SQLAlchemy's own.
    for _ in range(_FRAMES + 3):
        if frame is None:
            break
        taken.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(taken)


def _is_inside(frame: FrameType) -> bool:
    # SQLAlchemy's generated wrappers have no module name at all; our own `connect` stands among its frames.
    name: str | None = frame.f_globals.get("__name__")
    return not name or name.startswith(("sqlalchemy.", "isolation_monitor."))


# --- waiting ------------------------------------------------------------------------------------------------------------


class PoolTimer:
    """Times `connect` of an engine's pool, and of each pool that takes its place."""

    def __init__(self, leaks: SessionLeaks, registry: MetricRegistry, name: str) -> None:
        self._leaks = leaks
        self._name = name
        self._wait = registry.histogram(names.DB_CONNECTION_WAIT, db_client_connection_pool_name=name)
        self._is_on = True

    def wrap(self, pool: Any) -> None:
        from sqlalchemy.exc import TimeoutError as PoolTimeoutError

        # Weak, and through the class: the pool must not keep itself alive through its own wrapper.
        of_pool = weakref.ref(pool)
        theirs = {attribute: pool.__dict__.get(attribute) for attribute in ("connect", "recreate")}
        plain_connect = type(pool).connect if theirs["connect"] is None else _ignoring_pool(theirs["connect"])
        plain_recreate = type(pool).recreate if theirs["recreate"] is None else _ignoring_pool(theirs["recreate"])
        wait, leaks, name = self._wait, self._leaks, self._name

        def connect() -> Any:
            start = _clock()
            try:
                return plain_connect(of_pool())
            except PoolTimeoutError:
                leaks.starved(name)
                raise
            finally:
                # Failures too: a pool that makes everybody wait in vain must not look fast.
                try:
                    if self._is_on:
                        wait.observe(_clock() - start)
                except Exception as error:
                    leaks.failed(error)

        def recreate() -> Any:
            successor = plain_recreate(of_pool())
            if self._is_on:
                try:
                    self.wrap(successor)
                except Exception as error:
                    leaks.failed(error)
            return successor

        for attribute, wrapper in (("connect", connect), ("recreate", recreate)):
            wrapper.__isolation_monitor__ = theirs[attribute]  # type: ignore[attr-defined]  # a mark on our own function
            setattr(pool, attribute, wrapper)

    def stop(self, of_engine: weakref.ref[Any]) -> None:
        self._is_on = False
        engine = of_engine()
        if engine is None:
            return
        pool = engine.pool
        for attribute in ("connect", "recreate"):
            ours = pool.__dict__.get(attribute)
            if ours is None or not hasattr(ours, "__isolation_monitor__"):
                # Somebody wrapped ours: it stays below theirs, and only hands through.
                continue
            if ours.__isolation_monitor__ is None:
                del pool.__dict__[attribute]
            else:
                setattr(pool, attribute, ours.__isolation_monitor__)


def _ignoring_pool(function: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda _pool: function()


# --- gauges -------------------------------------------------------------------------------------------------------------


class Gauges:
    """The pool's size and use, read once a second by the housekeeper."""

    def __init__(self, engine: weakref.ref[Any], leaks: SessionLeaks, registry: MetricRegistry, name: str) -> None:
        self._engine = engine
        self._leaks = leaks
        self._name = name
        self._registry = registry
        self._idle = registry.gauge(names.DB_CONNECTION_COUNT, db_client_connection_pool_name=name, db_client_connection_state="idle")
        self._used = registry.gauge(names.DB_CONNECTION_COUNT, db_client_connection_pool_name=name, db_client_connection_state="used")
        self._is_on = True
        self.read(0.0)

    def read(self, _now: float) -> None:
        engine = self._engine()
        if engine is None or not self._is_on:
            return
        pool = engine.pool
        if is_a(pool, "QueuePool"):
            self._idle.set(float(max(0, pool.checkedin())))
            self._used.set(float(max(0, pool.checkedout())))
        else:
            self._used.set(float(self._leaks.out_of(self._name)))
        limit = pool_limit(engine)
        if limit is not None:
            self._registry.gauge(names.DB_CONNECTION_MAX, db_client_connection_pool_name=self._name).set(float(limit))

    def stop(self) -> None:
        self._is_on = False
        self._idle.set(0.0)
        self._used.set(0.0)
