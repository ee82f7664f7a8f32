"""sqlite3 connections that were open before the monitor came: told by the driver's trace callback, where that is safe.

The callback asks for the interpreter's lock under SQLite's. Where two threads use one connection, they could then wait for
each other for ever, so only connections are traced that the driver binds to one thread (`check_same_thread`, as by default).
It tells statements before they run, and none of `commit()` and `rollback()` where no transaction is open. A connection
with a callback of the host's own is left alone.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry.detectors.shared_transactions import first_word

if TYPE_CHECKING:
    from isolation_monitor.telemetry.instrument.dbapi import Told


def trace(told: Told) -> Callable[[], None]:
    """Trace the connections of this thread that are open; return what ends it. Only when called at start, on the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    traced: weakref.WeakSet[_Traced] = weakref.WeakSet()
    for connection in _bound([one for one in _open() if not any(type(part) is ModuleType for part in gc.get_referents(one))]):
        callback = _Traced(told)
        traced.add(callback)
        _set(connection, callback)

    def end() -> None:
        for connection in _open() if traced else ():
            if any(type(part) is _Traced and part.told is told for part in gc.get_referents(connection)):
                _set(connection, None)

    return end


class _Traced:
    """One connection, as its statements tell of it. Held by the connection, which takes no weak reference itself."""

    __slots__ = ("__weakref__", "_is_open", "_outermost", "told")

    def __init__(self, told: Told) -> None:
        self.told = told
        self._is_open = False
        self._outermost = ""
        """The savepoint that began the transaction, if one did."""

    def __call__(self, text: str) -> None:
        # What triggers do comes as comments.
        if text.startswith("--"):
            return
        word, was_open = first_word(text), self._is_open
        if word == "begin":
            was_open, self._is_open, self._outermost = False, True, ""
        elif word == "savepoint" and not was_open:
            self._is_open, self._outermost = True, _name(text)
        elif word in ("commit", "end") or _ends(word, text, self._outermost):
            self._is_open = False
        if was_open or self._is_open:
            self.told.traced(self, text, was_open, self._is_open)


def _ends(word: str, text: str, outermost: str) -> bool:
    """Return whether a statement rolls back the whole transaction, or releases the savepoint that began it."""
    return " to " not in text.lower() if word == "rollback" else word == "release" and _name(text) == outermost


def _name(text: str) -> str:
    return text.split()[-1].strip("\"'`[];").lower()


def _open() -> list[sqlite3.Connection]:
    return [thing for thing in gc.get_objects() if type(thing) is sqlite3.Connection]


def _bound(connections: list[sqlite3.Connection]) -> list[sqlite3.Connection]:
    """Return the connections that another thread may not use: the driver is asked from another one."""
    bound: list[sqlite3.Connection] = []

    def ask() -> None:
        for connection in connections:
            try:
                sqlite3.Connection.cursor(connection)
            except sqlite3.ProgrammingError:
                bound.append(connection)

    if connections:
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join()
    return bound


def _set(connection: sqlite3.Connection, callback: Any) -> None:
    try:
        connection.set_trace_callback(callback)
    except sqlite3.ProgrammingError:
        # Closed, or bound to another thread.
        return
