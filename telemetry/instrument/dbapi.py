"""Drivers of the Python database interface (PEP 249) whose classes are C: subclasses that tell what they do and hand it on.

For an integration that has a driver make its connections and cursors of such classes. What is told is judged by
`detectors/shared_transactions.py`; what a statement leaves in the session, where that can be, by `detectors/dirty_handover.py`.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.detectors.shared_transactions import ASKED_AT, ASKED_BY, SharedTransactions
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import SUPPORTED, version
from isolation_monitor.telemetry.provenance import ROWS_LIMIT

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection


class Told:
    """Hands on what the classes of one driver see; a failure of ours is counted and stays here.

    Args:
        in_transaction: asks the driver, without a round trip, whether a connection's transaction is open.
        has_sessions: whether a connection keeps settings, roles and locks that a next borrower would meet.
    """

    def __init__(self, detection: Detection, name: str, in_transaction: Callable[[Any], bool], *, has_sessions: bool) -> None:
        self._reporter = detection.kit.reporter
        self._stores = detection.stores
        self._dirty = detection.dirty_handover if has_sessions else None
        self.has_sessions = has_sessions
        self._in_transaction = in_transaction
        self._name = name
        self._transactions = SharedTransactions(detection, name)

    def is_open(self, connection: Any) -> bool:
        """Return whether the connection is in a transaction; False for one that is closed, of which the driver will complain itself."""
        try:
            return self._in_transaction(connection)
        except Exception:
            return False

    def asked(self, cursor: Any, connection: Any, text: Any, params: Any) -> None:
        """Before a statement runs: what the cursor still had of another request is gone from here on."""
        try:
            self._transactions.asked(cursor)
            if self._dirty is not None and type(text) is str:
                self._dirty.statement(connection, text, list(params) if type(params) in (list, tuple) else None, self._name)
        except Exception as error:
            self._failed(error)

    def executed(self, connection: Any, text: Any, was_open: bool) -> None:
        try:
            if type(text) is str:
                self._transactions.executed(connection, text, was_open=was_open, is_open=self.is_open(connection))
        except Exception as error:
            self._failed(error)

    def ended(self, connection: Any, was_open: bool, *, by_rollback: bool) -> None:
        try:
            self._transactions.ended(connection, was_open=was_open, by_rollback=by_rollback)
            if self._dirty is not None and was_open:
                self._dirty.statement(connection, "ROLLBACK" if by_rollback else "COMMIT", None, self._name)
        except Exception as error:
            self._failed(error)

    def fetched(self, cursor: Any, rows: Any = None) -> None:
        """A fetch has given these rows: one, or a list of them; None where it is not known yet."""
        try:
            self._transactions.fetched(cursor)
            if not rows or CURRENT.get() is None:
                return
            self._read(cursor, rows[0] if type(rows) is list else rows, None if _is_asked_by_sqlalchemy() else rows)
        except Exception as error:
            self._failed(error)

    def rows(self, cursor: Any, found: Iterator[Any]) -> Iterator[Any]:
        """Hand on the rows that a cursor gives one by one: together they are one read."""
        try:
            self._transactions.fetched(cursor)
            request = CURRENT.get()
            if request is not None:
                return self._reading(cursor, found, request, None if _is_asked_by_sqlalchemy() else [])
        except Exception as error:
            self._failed(error)
        return found

    def _reading(self, cursor: Any, found: Iterator[Any], request: RequestContext, read: list[Any] | None) -> Iterator[Any]:
        is_first = True
        for row in found:
            if is_first:
                is_first = False
                try:
                    if read is not None:
                        read.append(row)
                    self._read(cursor, row, read)
                except Exception as error:
                    self._failed(error)
            elif read is not None:
                read.append(row)
                if len(read) > ROWS_LIMIT:
                    # So long an export is not held: the request is said to have fetched everything.
                    read = None
                    self._stores.overflowed(request)
            yield row

    def _read(self, cursor: Any, first: Any, rows: Any) -> None:
        """Tell of a read by its first row and by all; None in their place where somebody else tells of them."""
        if self._dirty is not None and type(first) is tuple and first:
            self._dirty.answered(cursor.connection, first[0])
        if rows is not None:
            self._stores.read("sql", self._name, None, rows)

    def _failed(self, error: BaseException) -> None:
        self._reporter.check_failed(names.SHARED_CONNECTION, self._name, error)


def _is_asked_by_sqlalchemy() -> bool:
    """Return whether SQLAlchemy of a version that is followed by itself fetches: it says so, where somebody asks (`sqlalchemy_reads.py`).

    Two frames above the caller; for aiosqlite, whose thread fetches, by the stack of who asked.
    """
    sqlalchemy = sys.modules.get("sqlalchemy")
    if sqlalchemy is None or not _is_followed(getattr(sqlalchemy, "__version__", "")):
        return False
    asked_at = ASKED_AT.get()
    if asked_at is not None:
        return any("sqlalchemy" in code.co_filename for code, _ in asked_at[:3])
    name = sys._getframe(3).f_globals.get("__name__")
    return type(name) is str and name.startswith("sqlalchemy.")


@functools.lru_cache(maxsize=4)
def _is_followed(_version: str) -> bool:
    return version()[1] in SUPPORTED


def cursor_class(base: Any, told: Told) -> Any:
    """Return a subclass of the driver's cursor class `base` that tells of statements and fetches."""

    class Cursor(base):  # type: ignore[misc]  # the base is found at run time
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            if CURRENT.get() is None and not told.has_sessions:
                # Nobody's: at start, or in a background task.
                self.__dict__.pop(ASKED_BY, None)
                return super().execute(query, *args, **kwargs)
            connection = self.connection
            was_open = told.is_open(connection)
            told.asked(self, connection, query, args[0] if args else kwargs.get("vars"))
            found = super().execute(query, *args, **kwargs)
            told.executed(connection, query, was_open)
            return found

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            connection = self.connection
            was_open = told.is_open(connection)
            told.asked(self, connection, query, None)
            found = super().executemany(query, *args, **kwargs)
            told.executed(connection, query, was_open)
            return found

        def fetchone(self) -> Any:
            row = super().fetchone()
            told.fetched(self, row)
            return row

        def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
            rows = super().fetchmany(*args, **kwargs)
            told.fetched(self, rows)
            return rows

        def fetchall(self) -> Any:
            rows = super().fetchall()
            told.fetched(self, rows)
            return rows

        def __iter__(self) -> Any:
            found = super().__iter__()
            if found is not self or type(self).__next__ is not Cursor.__next__:
                told.fetched(self)
                return found
            # By the driver's own code for each row, not by the one below.
            return told.rows(self, map(base.__next__, itertools.repeat(self)))

        def __next__(self) -> Any:
            row = super().__next__()
            told.fetched(self, row)
            return row

    return _dressed(Cursor, base)


def connection_class(base: Any, told: Told) -> Any:
    """Return a subclass of the driver's connection class `base` that tells of commits and rollbacks."""

    class Connection(base):  # type: ignore[misc]  # the base is found at run time
        def commit(self) -> None:
            was_open = told.is_open(self)
            super().commit()
            told.ended(self, was_open, by_rollback=False)

        def rollback(self) -> None:
            was_open = told.is_open(self)
            super().rollback()
            told.ended(self, was_open, by_rollback=True)

    return _dressed(Connection, base)


def _dressed(cls: Any, base: Any) -> Any:
    """Give a subclass the names of its base, which applications and libraries may print or compare."""
    cls.__name__, cls.__qualname__, cls.__module__ = base.__name__, base.__qualname__, base.__module__
    return cls
