"""One file of the spool: batches on disk, each synced before it counts as kept. A SQLite database of one process.

WAL with `synchronous=FULL`: what was added survives the end of the process and of the machine. A lock file beside it is
held (flock) as long as its process lives; a file whose lock is free belongs to whoever takes the lock. The database is
opened in exclusive locking mode: no shared memory, and no second reader by mistake.
Never raises anything but `sqlite3.Error` and `OSError`; not safe for threads: its owner has a lock.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from isolation_monitor.telemetry import filelock
from isolation_monitor.telemetry.records.batches import Batch
from isolation_monitor.telemetry.records.gravity import CROSSED

P = ParamSpec("P")
R = TypeVar("R")

SUFFIX: Final = ".spool"
LOCK_SUFFIX: Final = ".lock"
CORRUPT_SUFFIX: Final = ".corrupt"
WAL: Final = "-wal"
_VERSION: Final = 1
_INSERT: Final = "INSERT INTO batches (gravity, records, crc, instance, body) VALUES (?, ?, ?, ?, ?)"
_SHRINK_FROM: Final = 1_048_576
"""Bytes that nothing uses, from which on the file gives them back."""
_EVICTED_AT_ONCE: Final = 64
_LOCK_TRIES: Final = 3
ROW_BYTES: Final = 256
"""What a batch takes on disk beside its body, about."""
_LEFT_TO_THE_PARENT: Final[list[sqlite3.Connection]] = []
"""Connections that a fork brought here because they could not be closed in time. Closing them here would touch the parent's file."""


class DamagedSpoolError(sqlite3.DatabaseError):
    """A file is no database any more; it was set aside."""


def is_damage(error: BaseException) -> bool:
    """Whether an error says that the file itself is broken, and not that the disk is full or the file locked."""
    if type(error) in (sqlite3.DatabaseError, DamagedSpoolError):
        return True
    # The subclasses are for the others: OperationalError, NotSupportedError and so on. But a table or column that is gone is one as
    # well: what we ask never changes, so that it can be wrong by the file's tables only, or by the state of the connection.
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR and "transaction" not in str(error)


def _says_damage(method: Callable[P, R]) -> Callable[P, R]:
    """Make damage of what a broken file does to Python: numbers that are text, messages in no encoding."""

    @wraps(method)
    def said(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except (ValueError, TypeError, OverflowError) as error:
            raise DamagedSpoolError(f"what is in it is not what was written ({type(error).__name__})") from error

    return said


class SpoolFile:
    """The batches of one process in one file. `create` and `adopt` make one."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._connection: sqlite3.Connection | None = None
        self._sent: set[int] = set()
        """Acknowledged, and not deleted because the disk did not let us: they must not be sent again."""
        self.records = 0

    @classmethod
    def create(cls, folder: Path) -> SpoolFile:
        """Make a new file in a folder.

        Raises:
            OSError: the folder cannot be written, or takes no locks.
        """
        for _ in range(_LOCK_TRIES):
            path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            lock = _take(path.with_suffix(LOCK_SUFFIX), new=True)
            if lock is not None:
                break
        else:
            raise OSError(f"files in {folder} cannot be locked")
        file = cls(path, lock)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            file._open()
            directory = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BaseException:
            file.discard()
            raise
        return file

    @classmethod
    def adopt(cls, path: Path) -> SpoolFile | None:
        """Take over a file whose process has ended; None when somebody has it, or it is a later version's."""
        lock = _take(path.with_suffix(LOCK_SUFFIX), new=False)
        if lock is None:
            return None
        file = cls(path, lock)
        try:
            if not path.exists():
                # Its process ended between making the lock and the file, or in the other order.
                file.discard()
                return None
            file._open()
        except BaseException as error:
            if is_damage(error):
                file.set_aside()
                raise DamagedSpoolError(f"{path}: {error}") from error
            file.let_go()
            raise
        return file

    @_says_damage
    def add(self, batches: Iterable[Batch]) -> None:
        """Add batches, all or none; when this returns they are on disk."""
        with self._writing() as connection:
            added = _insert(connection, batches)
        self.records += added

    @_says_damage
    def first(self, without: Collection[int]) -> Batch | None:
        """Return the oldest of the gravest, except those whose numbers are in `without`.

        Its body is empty where the disk gave back something else than was written.
        """
        left_out = [*without, *self._sent]
        # Numbers, so nothing to quote.
        query = f"SELECT number, gravity, records, crc, instance, body FROM batches WHERE number NOT IN ({','.join(map(str, left_out))})"
        row = self._opened().execute(f"{query} ORDER BY gravity DESC, number LIMIT 1").fetchone()
        if row is None:
            return None
        number, grave, records, crc, instance, body = row
        is_whole = (
            isinstance(records, int) and records >= 0 and isinstance(instance, str) and isinstance(grave, int) and 0 <= grave <= CROSSED
        )
        if not is_whole or not isinstance(body, bytes) or zlib.crc32(body) != crc:
            return Batch(0, max(1, _number(records)), b"", "", number)
        return Batch(grave, records, body, instance, number)

    @_says_damage
    def remove(self, number: int) -> None:
        """Forget an acknowledged batch. Where the disk does not let us, it is at least never sent again by this process."""
        self._sent.add(number)
        with self._writing() as connection:
            gone = _delete(connection, [number])
        self.records -= gone
        self._sent.discard(number)
        self._shrink()

    @_says_damage
    def replace(self, number: int, batches: Iterable[Batch]) -> None:
        """Put other batches in the place of one, all or none; nothing where that one is gone."""
        with self._writing() as connection:
            gone = _delete(connection, [number])
            if gone:
                gone -= _insert(connection, batches)
        self.records -= gone

    @_says_damage
    def evict(self, below: int) -> int:
        """Drop some of the oldest of the least grave, if less grave than `below`; return how many records went."""
        found = self._opened().execute(
            "SELECT number FROM batches WHERE gravity = (SELECT min(gravity) FROM batches) AND gravity < ? ORDER BY number LIMIT ?",
            (below, _EVICTED_AT_ONCE),
        )
        numbers = [number for (number,) in found]
        with self._writing() as connection:
            gone = _delete(connection, numbers)
        self.records -= gone
        if numbers:
            self._shrink()
        return gone

    @_says_damage
    def bytes_below(self, gravity: int) -> int:
        """Return about how many bytes dropping everything less grave would free."""
        query = "SELECT coalesce(sum(length(body)), 0) + count(*) * ? FROM batches WHERE gravity < ?"
        return int(self._opened().execute(query, (ROW_BYTES, gravity)).fetchone()[0])

    @_says_damage
    def used_bytes(self) -> int:
        """Return the bytes in use: the file without its free pages, which it fills before it grows."""
        connection = self._opened()
        pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
        return int((pages - free) * size)

    @property
    def is_stuck(self) -> bool:
        """Whether it holds acknowledged batches that could not be deleted."""
        return bool(self._sent)

    def release(self) -> None:
        """Close the database and keep the file: before a fork, which no connection may cross. The next use opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's, without touching the file."""
        if self._connection is not None:
            _LEFT_TO_THE_PARENT.append(self._connection)
            self._connection = None
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def let_go(self) -> None:
        """Close it; whoever comes next may adopt it."""
        self.release()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def discard(self) -> None:
        """Close and remove it: nothing in it is needed any more."""
        self.release()
        for path in (self.path, self.path.with_name(self.path.name + WAL), self.path.with_suffix(LOCK_SUFFIX)):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def set_aside(self) -> None:
        """Close it and give it another name, for people to look at: it is damaged."""
        self.release()
        for path in (self.path, self.path.with_name(self.path.name + WAL)):
            with contextlib.suppress(OSError):
                path.rename(path.with_name(path.name + CORRUPT_SUFFIX))
        with contextlib.suppress(OSError):
            self.path.with_suffix(LOCK_SUFFIX).unlink()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def _opened(self) -> sqlite3.Connection:
        return self._connection or self._open()

    @_says_damage
    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        # One name that is damaged must not stand in the way of every other batch.
        connection.text_factory = _text
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA wal_autocheckpoint=256")
            connection.execute(f"PRAGMA journal_size_limit={_SHRINK_FROM}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise sqlite3.NotSupportedError(f"{self.path.name} was written by a later version ({version}, known is {_VERSION})")
            if version < _VERSION:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY AUTOINCREMENT, gravity INTEGER NOT NULL, "
                    "records INTEGER NOT NULL, crc INTEGER NOT NULL, instance TEXT NOT NULL, body BLOB NOT NULL)"
                )
                connection.execute("CREATE INDEX IF NOT EXISTS batches_by_gravity ON batches (gravity DESC, number)")
                connection.execute(f"PRAGMA user_version={_VERSION}")
                connection.execute("COMMIT")
            self.records = _number(connection.execute("SELECT coalesce(sum(records), 0) FROM batches").fetchone()[0])
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened()
        if connection.in_transaction:
            # One that could not be rolled back. Nothing in it was promised to anybody.
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            # A full disk has rolled it back already.
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    def _shrink(self) -> None:
        connection = self._opened()
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        if free * size >= _SHRINK_FROM:
            # As a script: `execute` takes one step, which gives back one page.
            connection.executescript(f"PRAGMA incremental_vacuum({_SHRINK_FROM // size})")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _number(value: object) -> int:
    """Return a number of records; 0 for what was never written as one."""
    return value if isinstance(value, int) and value >= 0 else 0


def _insert(connection: sqlite3.Connection, batches: Iterable[Batch]) -> int:
    """Insert batches; return how many records are in them.

    Raises:
        sqlite3.DataError: one of them is nothing that a database holds, which says nothing about the file.
    """
    try:
        rows = [(one.gravity, one.records, zlib.crc32(one.body), _writable(one.instance), one.body) for one in batches]
        connection.executemany(_INSERT, rows)
        return sum(row[1] for row in rows)
    except UnicodeDecodeError:
        # A message in no encoding: that is the file.
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise sqlite3.DataError(f"a batch cannot be written ({type(error).__name__})") from error


def _writable(text: str) -> str:
    """Return a name of a host as UTF-8 can carry it: it may hold bytes of no encoding."""
    return text.encode("utf-8", "backslashreplace").decode()


def _delete(connection: sqlite3.Connection, numbers: list[int]) -> int:
    """Delete batches; return how many records were in them."""
    gone = 0
    for number in numbers:
        for (records,) in connection.execute("SELECT records FROM batches WHERE number = ?", (number,)).fetchall():
            gone += _number(records)
        connection.execute("DELETE FROM batches WHERE number = ?", (number,))
    return gone


def _take(path: Path, *, new: bool) -> int | None:
    """Return the descriptor of a lock file that is ours from now on, None when somebody else has it."""
    if not new and not filelock.IS_KNOWN:
        return None
    try:
        lock = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | (os.O_CREAT | os.O_EXCL if new else os.O_CREAT), 0o600)
    except FileExistsError:
        return None
    try:
        if filelock.take(lock):
            # Whoever had it may have removed it between our opening and our locking it: then it is the lock of nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    if new:
        with contextlib.suppress(OSError):
            path.unlink()
    return None
