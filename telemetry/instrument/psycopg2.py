"""psycopg2: statements, commits and rollbacks of the connections that are made from now on, its pools' included.

`psycopg2.connect` makes connections and cursors of subclasses. Left as they are: connections that were open before, those
of a class of the host's own, and asynchronous ones.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.dbapi import Told, connection_class, cursor_class
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, numbers_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

OLDEST, NEWEST = (2, 8), (2, 999)
CURSOR_CLASSES_LIMIT: Final = 100
_IDLE: Final = 0
"""libpq's PQTRANS_IDLE."""


def install(detection: Detection) -> Installed:
    """Have the connections tell that are made from now on."""
    psycopg2: Any = importlib.import_module("psycopg2")
    version = str(psycopg2.__version__).partition(" ")[0]
    if not OLDEST <= numbers_of(version) <= NEWEST:
        note = "not supported: 2.8 and later are"
        return Installed([Patch("psycopg2", version, "psycopg2.connect", reversible=True, active=False, note=note)], lambda: None)
    extensions: Any = importlib.import_module("psycopg2.extensions")
    status = extensions.connection.get_transaction_status
    told = Told(detection, "psycopg2", lambda connection: status(connection) != _IDLE, has_sessions=True)
    connection = _connection(extensions, told)

    def make(original: Any) -> Any:
        def connect(dsn: Any = None, connection_factory: Any = None, *args: Any, **kwargs: Any) -> Any:
            if connection_factory is None and not (kwargs.get("async") or kwargs.get("async_")):
                connection_factory = connection
            return original(dsn, connection_factory, *args, **kwargs)

        return connect

    undo = patches.replace(psycopg2, "connect", make)
    return Installed([Patch("psycopg2", version, "psycopg2.connect", reversible=True, active=True)], undo)


def _connection(extensions: Any, told: Told) -> Any:
    base: Any = connection_class(extensions.connection, told)
    classes: dict[Any, Any] = {}

    class Connection(base):  # type: ignore[misc]  # made at run time
        def cursor(self, name: Any = None, cursor_factory: Any = None, *args: Any, **kwargs: Any) -> Any:
            # The application's own: a function that makes cursors is left as it is.
            wanted = cursor_factory or self.cursor_factory or extensions.cursor
            if isinstance(wanted, type):
                if len(classes) >= CURSOR_CLASSES_LIMIT:
                    # An application that makes a class for each cursor.
                    classes.clear()
                wanted = classes.get(wanted) or classes.setdefault(wanted, cursor_class(wanted, told))
            return super().cursor(name, wanted, *args, **kwargs)

    Connection.__name__, Connection.__qualname__, Connection.__module__ = "connection", "connection", extensions.connection.__module__
    return Connection
