"""psycopg 3.1 and later, blocking and asyncio: statements as they are converted, transactions by the status of the connection.

psycopg's connections serve one statement at a time by a lock of their own, so a use lasts as long as a transaction; in
autocommit there is none. Whether the last one is over is asked when the next statement or transaction begins, by the
client's copy of the server's transaction status: ends are not watched. Works below SQLAlchemy too.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, Patching, numbers_of
from isolation_monitor.telemetry.provenance import ROWS_LIMIT

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

OLDEST: Final = (3, 1)
NEWEST: Final = (3, 999)
_IDLE: Final = 0
"""libpq's PQTRANS_IDLE."""
_TRANSACTION_WORDS: Final = (b"BEGIN", b"COMMIT", b"ROLLBACK")
_FETCHES: Final = ("fetchone", "fetchmany", "fetchall", "__next__", "__anext__")


def install(detection: Detection) -> Installed:
    """Hook cursors and connections; nothing where the version is unknown."""
    import psycopg

    version = str(psycopg.__version__)
    if not OLDEST <= numbers_of(version) <= NEWEST:
        note = "not supported: 3.1 and later are"
        return Installed([Patch("psycopg", version, "psycopg.Cursor", reversible=True, active=False, note=note)], lambda: None)
    hooks = _Hooks(detection)
    patching = Patching("psycopg", version)

    def hook(owner: Any, attribute: str, make: Callable[[Any], Any]) -> None:
        if attribute in vars(owner):
            patching.replace(owner, attribute, make)

    cursors = list(
        dict.fromkeys(
            owner for cls in (psycopg.Cursor, psycopg.ClientCursor) for owner in cls.__mro__ if owner.__module__.startswith("psycopg")
        )
    )
    raw = getattr(psycopg, "RawCursor", None)
    if raw is not None:
        cursors += [owner for owner in raw.__mro__ if owner.__module__.startswith("psycopg") and owner not in cursors]
    for owner in cursors:
        hook(owner, "_convert_query", hooks.convert_query)
        hook(owner, "_start_query", hooks.start_query)
    connection = next(owner for owner in psycopg.Connection.__mro__ if "_exec_command" in vars(owner))
    hook(connection, "_exec_command", hooks.exec_command)
    for cursor in (psycopg.Cursor, psycopg.AsyncCursor, psycopg.ServerCursor, psycopg.AsyncServerCursor):
        for fetch in _FETCHES:
            hook(cursor, fetch, hooks.fetch)
        # Up to 3.2 iterating is a generator of its own; later it is `__next__`.
        if inspect.isgeneratorfunction(vars(cursor).get("__iter__")):
            hook(cursor, "__iter__", hooks.iterate)
        if inspect.isasyncgenfunction(vars(cursor).get("__aiter__")):
            hook(cursor, "__aiter__", hooks.iterate_async)

    return Installed(patching.patches, patching.undo)


class _Hooks:
    """Makes the replacements."""

    def __init__(self, detection: Detection) -> None:
        self._detection = detection
        self._shared = detection.shared_connection
        self._dirty = detection.dirty_handover
        self._stores = detection.stores
        self._params: ByIdentity[Any] = ByIdentity()
        """What a cursor's last statement was asked with."""
        self._rows: ByIdentity[list[Any]] = ByIdentity()
        """What was fetched of it one by one: noted once, then added to."""

    def start_query(self, original: Any) -> Any:
        # Runs under the connection's lock and before an implicit BEGIN.
        def _start_query(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                connection = cursor._conn
                if connection.pgconn.transaction_status == _IDLE:
                    self._shared.closed(connection)
                else:
                    self._shared.used(connection, "psycopg")
            except Exception as error:
                self._failed(error)
            return original(cursor, *args, **kwargs)

        return _start_query

    def convert_query(self, original: Any) -> Any:
        def _convert_query(cursor: Any, query: Any, params: Any = None, *args: Any, **kwargs: Any) -> Any:
            converted = original(cursor, query, params, *args, **kwargs)
            try:
                text = query if type(query) is str else bytes(converted.query).decode("utf-8", "replace")
                # A text with `%` has its values elsewhere; the converted one has them in order.
                if "%" in text:
                    text = bytes(converted.query).decode("utf-8", "replace")
                self._dirty.statement(cursor._conn, text, _plain(converted.params), "psycopg")
                if CURRENT.get() is not None:
                    self._rows.drop(cursor)
                    if params is not None:
                        self._params.put(cursor, params)
                    else:
                        self._params.drop(cursor)
            except Exception as error:
                self._failed(error)
            return converted

        return _convert_query

    def exec_command(self, original: Any) -> Any:
        def _exec_command(connection: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                if type(command) is bytes and command.startswith(_TRANSACTION_WORDS):
                    if command.startswith(b"BEGIN") and connection.pgconn.transaction_status == _IDLE:
                        self._shared.closed(connection)
                        self._shared.used(connection, "psycopg")
                    self._dirty.statement(connection, command.decode("ascii", "replace"), None, "psycopg")
            except Exception as error:
                self._failed(error)
            return original(connection, command, *args, **kwargs)

        return _exec_command

    def fetch(self, original: Any) -> Any:
        def fetch(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            rows = original(cursor, *args, **kwargs)
            self._read(cursor, rows)
            return rows

        if not inspect.iscoroutinefunction(original):
            return fetch

        async def fetch_async(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            rows = await original(cursor, *args, **kwargs)
            self._read(cursor, rows)
            return rows

        return fetch_async

    def iterate(self, original: Any) -> Any:
        def __iter__(cursor: Any) -> Iterator[Any]:
            for row in original(cursor):
                self._read(cursor, row)
                yield row

        return __iter__

    def iterate_async(self, original: Any) -> Any:
        async def __aiter__(cursor: Any) -> AsyncIterator[Any]:
            async for row in original(cursor):
                self._read(cursor, row)
                yield row

        return __aiter__

    def _read(self, cursor: Any, rows: Any) -> None:
        try:
            if rows is None or CURRENT.get() is None:
                return
            known = self._rows.get(cursor)
            if known is not None:
                self._add(known, rows)
                return
            row = rows[0] if type(rows) is list and rows else rows
            if type(row) is tuple and row:
                self._dirty.answered(cursor._conn, row[0])
            # One row beyond the limit tells the stores that there are too many.
            known = rows[: ROWS_LIMIT + 1] if type(rows) is list else [rows]
            self._rows.put(cursor, known)
            self._stores.read("sql", "psycopg", self._params.get(cursor), known)
        except Exception as error:
            self._failed(error)

    def _add(self, known: list[Any], rows: Any) -> None:
        """Add to what a cursor has given so far; of one that has given very much, keep nothing."""
        request = CURRENT.get()
        if len(known) >= ROWS_LIMIT:
            if request is not None:
                self._stores.overflowed(request)
        elif type(rows) is list:
            known.extend(rows[:ROWS_LIMIT])
        else:
            known.append(rows)

    def _failed(self, error: BaseException) -> None:
        self._detection.kit.reporter.check_failed(names.SHARED_CONNECTION, "psycopg", error)


def _plain(params: Any) -> list[Any] | None:
    return list(params) if type(params) in (list, tuple) else None
