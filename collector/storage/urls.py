"""Database addresses: which drivers stand behind which scheme."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_ACCEPTED = set(_DRIVERS.values())


class DatabaseUrlError(ValueError):
    """The address names no database that the collector can use."""


def async_url(url: str) -> str:
    """Return `url` with the asynchronous driver of its database: `sqlite:///x` becomes `sqlite+aiosqlite:///x`.

    Raises:
        DatabaseUrlError: the address cannot be read or is of another database. The text never repeats a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseUrlError("is not a database address: write sqlite:///path or postgresql://user@host/name") from None
    driver = _DRIVERS.get(parsed.drivername, parsed.drivername)
    if driver not in _ACCEPTED:
        raise DatabaseUrlError(f"names {parsed.drivername!r}: use sqlite (sqlite:///path) or postgresql (postgresql://user@host/name)")
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise DatabaseUrlError("is an SQLite database in memory, which keeps nothing: give a path, sqlite:///path")
    return parsed.set(drivername=driver).render_as_string(hide_password=False)
