"""What SQL statements return, for provenance: followed only while somebody suspects a value, at no cost otherwise.

While started, the methods by which SQLAlchemy 2.0 and 2.1 fetch rows from a driver's cursor are wrapped, so every way to
a row (Core, ORM, streaming, buffered, asynchronous) passes; stopped, the originals are back. Rows are handed over by
reference, as the driver made them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import SUPPORTED, version

if TYPE_CHECKING:
    from isolation_monitor.telemetry.provenance import Stores

_STRATEGIES: Final = ("CursorFetchStrategy", "BufferedRowCursorFetchStrategy", "FullyBufferedCursorFetchStrategy")
_METHODS: Final = ("fetchone", "fetchmany", "fetchall")
_PLAIN: Final = (tuple, list, dict)


class SqlReads:
    """Tells the stores what SQL returned between `start` and `stop`. Both may be called again and from any thread."""

    def __init__(self, stores: Stores, failed: Callable[[BaseException], None] = lambda error: None) -> None:
        self._stores = stores
        self._failed = failed
        self._is_on = False
        self._undo: list[Callable[[], None]] = []

    @property
    def is_on(self) -> bool:
        """Whether the reads of all engines are followed now."""
        return self._is_on

    @property
    def is_needed(self) -> bool:
        """Whether the process may read rows of any engine without this being told: SQLAlchemy is loaded, and not followed yet."""
        return not self._is_on and "sqlalchemy.engine.cursor" in sys.modules and version()[1] in SUPPORTED

    def start(self) -> None:
        """Begin to follow reads of all engines; does nothing where SQLAlchemy is not loaded or of an unsupported version."""
        if not self.is_needed:
            return
        cursor = sys.modules["sqlalchemy.engine.cursor"]
        self._is_on = True
        for name in _STRATEGIES:
            strategy = getattr(cursor, name, None)
            for method in _METHODS:
                if strategy is not None and method in vars(strategy):
                    self._undo.append(patches.replace(strategy, method, self._telling))

    def stop(self) -> None:
        """Put the originals back."""
        self._is_on = False
        while self._undo:
            self._undo.pop()()

    def _telling(self, original: Any) -> Any:
        def fetch(strategy: Any, result: Any, *arguments: Any, **options: Any) -> Any:
            fetched = original(strategy, result, *arguments, **options)
            if fetched and self._is_on and CURRENT.get() is not None:
                try:
                    context = getattr(result, "context", None)
                    self._stores.read("sql", "sql", getattr(context, "parameters", None), _plain(fetched))
                except Exception as error:
                    self._failed(error)
            return fetched

        return fetch


def _plain(fetched: Any) -> object:
    """Return one row or many as the provenance can look into them: asyncpg's records are no tuples."""
    if _is_record(fetched):
        return tuple(fetched)
    if type(fetched) is list and _is_record(fetched[0]):
        return [tuple(row) for row in fetched]
    return fetched


def _is_record(row: object) -> bool:
    return not isinstance(row, _PLAIN) and type(row).__module__.partition(".")[0] == "asyncpg"
