"""psycopg_pool 3.1 and later: connections that a request took and did not give back."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, Patching

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

SUPPORTED: Final = ("3.",)


def install(detection: Detection) -> Installed:
    """Hook taking and giving back in both pools; nothing where the version is unknown."""
    import psycopg_pool

    version = str(psycopg_pool.__version__)
    if not version.startswith(SUPPORTED):
        note = "not supported: 3.x is"
        return Installed([Patch("psycopg_pool", version, "psycopg_pool", reversible=True, active=False, note=note)], lambda: None)
    hooks = _Hooks(detection)
    patching = Patching("psycopg_pool", version)
    for pool in (psycopg_pool.ConnectionPool, psycopg_pool.AsyncConnectionPool):
        for attribute, make in (("getconn", hooks.getconn), ("putconn", hooks.putconn)):
            patching.replace(pool, attribute, make)

    return Installed(patching.patches, patching.undo)


class _Hooks:
    """Makes the replacements."""

    def __init__(self, detection: Detection) -> None:
        self._detection = detection
        self._leaks = detection.leaks

    def getconn(self, original: Any) -> Any:
        def getconn(pool: Any, *args: Any, **kwargs: Any) -> Any:
            connection = original(pool, *args, **kwargs)
            self._out(pool, connection)
            return connection

        if not inspect.iscoroutinefunction(original):
            return getconn

        async def getconn_async(pool: Any, *args: Any, **kwargs: Any) -> Any:
            connection = await original(pool, *args, **kwargs)
            self._out(pool, connection)
            return connection

        return getconn_async

    def putconn(self, original: Any) -> Any:
        back = self._back

        # By the names of the original: callers may use them.
        def putconn(self: Any, conn: Any, *args: Any, **kwargs: Any) -> Any:
            back(conn)
            return original(self, conn, *args, **kwargs)

        if not inspect.iscoroutinefunction(original):
            return putconn

        async def putconn_async(self: Any, conn: Any, *args: Any, **kwargs: Any) -> Any:
            back(conn)
            return await original(self, conn, *args, **kwargs)

        return putconn_async

    def _out(self, pool: Any, connection: Any) -> None:
        try:
            if CURRENT.get() is not None:
                name = pool.__dict__.get("name")
                self._leaks.checked_out(id(connection), f"psycopg {name if type(name) is str else 'pool'}", stacks.capture(3))
        except Exception as error:
            self._failed(error)

    def _back(self, connection: Any) -> None:
        try:
            self._leaks.checked_in(id(connection))
        except Exception as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._detection.kit.reporter.check_failed(names.SESSION_LEAK, "psycopg", error)
