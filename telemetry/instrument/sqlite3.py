"""sqlite3 of the standard library: statements, commits and rollbacks of its connections.

The driver's classes are C and cannot be changed, so `sqlite3.connect` makes connections and cursors of subclasses. Those of a
class of the host's own are left as they are, and so are connections that were open before: the driver's trace callback would
take the interpreter's lock under SQLite's own, and could stop two threads of the host for ever.
"""

from __future__ import annotations

import platform
import sqlite3
import sys
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.dbapi import Told, connection_class, cursor_class
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

NEWEST: Final = (3, 15)
"""The first Python whose sqlite3 has not been looked at: it is left alone."""
_FACTORY: Final = 5
"""Where the class of the connection stands when it is given by position."""


def install(detection: Detection) -> Installed:
    """Have the connections tell that are made from now on."""
    version = platform.python_version()
    if sys.version_info >= NEWEST:
        note = "this Python is newer than what is supported: not patched"
        return Installed([Patch("sqlite3", version, "sqlite3.connect", reversible=True, active=False, note=note)], lambda: None)
    flag: Any = sqlite3.Connection.in_transaction
    told = Told(detection, "sqlite3", flag.__get__, has_sessions=False)
    connection = _connection(told)

    def make(original: Any) -> Any:
        def connect(*args: Any, **kwargs: Any) -> Any:
            if len(args) <= _FACTORY and kwargs.get("factory", sqlite3.Connection) is sqlite3.Connection:
                kwargs["factory"] = connection
            return original(*args, **kwargs)

        return connect

    undo = [patches.replace(module, "connect", make) for module in (sqlite3, sqlite3.dbapi2)]

    def take_off() -> None:
        while undo:
            undo.pop()()

    return Installed([Patch("sqlite3", version, "sqlite3.connect", reversible=True, active=True)], take_off)


def _connection(told: Told) -> Any:
    driver: Any = cursor_class(sqlite3.Cursor, told)
    base: Any = connection_class(sqlite3.Connection, told)
    plain_cursor: Any = sqlite3.Connection.cursor

    class Cursor(driver):  # type: ignore[misc]  # made at run time
        def executescript(self, *args: Any) -> Any:
            connection = self.connection
            was_open = told.is_open(connection)
            found = super().executescript(*args)
            # It commits what is open before it starts.
            if was_open:
                told.ended(connection, True, by_rollback=False)
            return found

    class Connection(base):  # type: ignore[misc]  # made at run time
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            return super().cursor(*args, **kwargs) if args or kwargs else super().cursor(Cursor)

        # The driver's own make their cursor without a call of `cursor`.
        def execute(self, *args: Any) -> Any:
            return plain_cursor(self, Cursor).execute(*args)

        def executemany(self, *args: Any) -> Any:
            return self.cursor().executemany(*args)

        def executescript(self, *args: Any) -> Any:
            return self.cursor().executescript(*args)

        def __exit__(self, *error: Any) -> Any:
            was_open = told.is_open(self)
            # The driver's own commits or rolls back without a call of `commit` or `rollback`.
            swallows = super().__exit__(*error)
            told.ended(self, was_open, by_rollback=bool(error) and error[0] is not None)
            return swallows

    for cls, like in ((Cursor, sqlite3.Cursor), (Connection, sqlite3.Connection)):
        cls.__name__, cls.__qualname__, cls.__module__ = like.__name__, like.__qualname__, like.__module__
    return Connection
