"""asyncpg 0.27 and later: statements by the protocol object, through which every one goes; connections left out by the pool.

The protocol object stands for its connection: one is made with the other. A use of it lasts as long as a statement or
a transaction. Works below SQLAlchemy too, whose pool is its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, Patching, numbers_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

OLDEST: Final = (0, 27)
NEWEST: Final = (0, 999)


def install(detection: Detection) -> Installed:
    """Hook the protocol and the pool; nothing where the version is unknown."""
    asyncpg: Any = importlib.import_module("asyncpg")
    version = str(asyncpg.__version__)
    if not OLDEST <= numbers_of(version) <= NEWEST:
        note = "not supported: 0.27 and later are"
        return Installed([Patch("asyncpg", version, "asyncpg.protocol", reversible=True, active=False, note=note)], lambda: None)
    connection: Any = importlib.import_module("asyncpg.connection").Connection
    pool: Any = importlib.import_module("asyncpg.pool")
    protocol: Any = importlib.import_module("asyncpg.protocol").Protocol
    hooks = _Hooks(detection)
    patching = Patching("asyncpg", version)
    targets: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (protocol, "query", hooks.simple),
        (protocol, "prepare", hooks.prepare),
        (protocol, "bind_execute", hooks.prepared),
        (protocol, "bind_execute_many", hooks.prepared),
        (protocol, "bind", hooks.prepared),
        (connection, "_execute", hooks.guarded),
        (connection, "_executemany", hooks.guarded),
        (pool.Pool, "_acquire", hooks.acquire),
        (pool.PoolConnectionHolder, "_release", hooks.release),
    ]
    for owner, attribute, make in targets:
        patching.replace(owner, attribute, make)

    return Installed(patching.patches, patching.undo)


_ENDS: Final = ("ROLLBACK", "COMMIT", "END", "ABORT")
"""How statements begin that end a transaction, whosever it was."""


class _Hooks:
    """Makes the replacements."""

    def __init__(self, detection: Detection) -> None:
        self._detection = detection
        self._shared = detection.shared_connection
        self._dirty = detection.dirty_handover
        self._leaks = detection.leaks
        self._stores = detection.stores

    def simple(self, original: Any) -> Any:
        async def query(protocol: Any, *args: Any, **kwargs: Any) -> Any:
            text = args[0] if args else kwargs.get("query")
            self._before(protocol, text, None)
            try:
                return await original(protocol, *args, **kwargs)
            finally:
                self._after(protocol, text)

        return query

    def prepare(self, original: Any) -> Any:
        async def prepare(protocol: Any, *args: Any, **kwargs: Any) -> Any:
            # Nothing is executed yet, but nobody else may use the connection meanwhile.
            self._use(protocol)
            try:
                return await original(protocol, *args, **kwargs)
            finally:
                self._after(protocol)

        return prepare

    def prepared(self, original: Any) -> Any:
        async def bind_execute(protocol: Any, *args: Any, **kwargs: Any) -> Any:
            state = args[0] if args else kwargs.get("state")
            params = args[1] if len(args) > 1 else kwargs.get("args")
            is_noted = self._before(protocol, getattr(state, "query", None), params)
            try:
                result = await original(protocol, *args, **kwargs)
            finally:
                self._after(protocol)
            if is_noted and result:
                self._read(protocol, params, result)
            return result

        return bind_execute

    def guarded(self, original: Any) -> Any:
        interface_error: type[Exception] = importlib.import_module("asyncpg.exceptions").InterfaceError

        async def _execute(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(connection, *args, **kwargs)
            except interface_error:
                # "Another operation is in progress", said before the protocol is reached.
                try:
                    self._shared.refused(connection._protocol, "asyncpg")
                except Exception as error:
                    self._failed(error)
                raise

        return _execute

    def acquire(self, original: Any) -> Any:
        async def _acquire(pool: Any, *args: Any, **kwargs: Any) -> Any:
            proxy = await original(pool, *args, **kwargs)
            try:
                if CURRENT.get() is not None:
                    self._leaks.checked_out(id(proxy._holder), _name(proxy._con), stacks.capture(2))
            except Exception as error:
                self._failed(error)
            return proxy

        return _acquire

    def release(self, original: Any) -> Any:
        def _release(holder: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                self._leaks.checked_in(id(holder))
                if holder._con is not None:
                    self._shared.closed(holder._con._protocol)
            except Exception as error:
                self._failed(error)
            return original(holder, *args, **kwargs)

        return _release

    def _before(self, protocol: Any, text: object, params: Any) -> bool:
        """Note a statement; return whether its end is to be noted too."""
        try:
            if type(text) is not str:
                return False
            self._dirty.statement(protocol, text, params, "asyncpg")
            if text.lstrip()[:8].upper() == "ROLLBACK":
                # Whoever cleans up behind another uses nothing.
                return False
        except Exception as error:
            self._failed(error)
        return self._use(protocol)

    def _use(self, protocol: Any) -> bool:
        try:
            if CURRENT.get() is None:
                return False
            self._shared.used(protocol, "asyncpg")
            return True
        except Exception as error:
            self._failed(error)
            return False

    def _after(self, protocol: Any, text: object = None) -> None:
        """Note the end of a statement, also of one outside of requests: a session that was left open is rolled back by whoever finds it."""
        try:
            if not protocol.is_in_transaction():
                if type(text) is str and text.lstrip()[:8].upper().startswith(_ENDS):
                    self._shared.closed(protocol)
                else:
                    self._shared.idle(protocol)
        except Exception as error:
            self._failed(error)

    def _read(self, protocol: Any, params: Any, result: Any) -> None:
        try:
            # Where asked for, the rows come with the status and whether there are more.
            rows = result[0] if type(result) is tuple else result
            if type(rows) is list and rows:
                self._stores.read("sql", "asyncpg", params, rows)
                self._dirty.answered(protocol, next(iter(rows[0]), None))
        except Exception as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._detection.kit.reporter.check_failed(names.SHARED_CONNECTION, "asyncpg", error)


def _name(connection: Any) -> str:
    """Return what evidence calls the connection's pool: server and database, nothing secret."""
    address = getattr(connection, "_addr", None)
    place = ":".join(str(part) for part in address) if type(address) is tuple else str(address)
    return f"asyncpg {place}/{getattr(getattr(connection, '_params', None), 'database', '?')}"
