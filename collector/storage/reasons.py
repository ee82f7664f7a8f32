"""Why a store does not answer now, in words for whoever asked: what it is, and what to do where there is something.

Said from the class and the code of the error; of its text, which may hold data, nothing is repeated.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_SQLITE: Final = {
    "SQLITE_BUSY": "another process holds the lock of its file",
    "SQLITE_LOCKED": "another process holds the lock of its file",
    "SQLITE_INTERRUPT": "it took longer than COLLECTOR_STORE_TIMEOUT_S; ask for a shorter time or fewer rows",
    "SQLITE_FULL": "its disk is full",
    "SQLITE_IOERR": "its disk fails",
    "SQLITE_READONLY": "its file is read-only",
    "SQLITE_CANTOPEN": "its file cannot be opened",
}
_OTHER_SCHEMA: Final = "its tables are not those of this version; run `isomon migrate`"
_POSTGRESQL: Final = {
    "57014": "it took longer than COLLECTOR_STORE_TIMEOUT_S; ask for a shorter time or fewer rows",
    "55P03": "others hold its tables",
    "40P01": "two transactions waited for each other",
    "40001": "two transactions changed the same rows",
    "42P01": _OTHER_SCHEMA,
    "42703": _OTHER_SCHEMA,
    "53300": "it has no connection left",
    "53100": "its disk is full",
    "25006": "it is read-only",
    "57P01": "it is restarting",
    "57P02": "it is restarting",
    "57P03": "it is starting",
}


def reason(error: BaseException, cause: object) -> str:
    """Return why; `cause` is what the driver raised, or `error` itself."""
    if isinstance(error, PoolTimeoutError):
        return "all of its connections are in use: too many ask at once"
    state = str(getattr(cause, "sqlstate", "") or "")
    if state in _POSTGRESQL:
        return _POSTGRESQL[state]
    name = str(getattr(cause, "sqlite_errorname", "") or "")
    for prefix, words in _SQLITE.items():
        # Extended names add to the plain one: SQLITE_IOERR_FSYNC, SQLITE_BUSY_SNAPSHOT.
        if name.startswith(prefix):
            return words
    if name == "SQLITE_ERROR" and str(cause).startswith(("no such table", "no such column")):
        return _OTHER_SCHEMA
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, OSError):
        return "it cannot be reached"
    return f"{type(cause).__name__}{f' {state}' if state else ''}"
