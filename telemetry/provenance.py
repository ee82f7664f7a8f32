"""Provenance: what requests read from stores and hand to stores, kept by reference and looked at only under suspicion.

Integrations of store clients (`instrument/`) say here what was read and written for which request. Nothing is searched
on the way: a detector that suspects a value asks `was_fetched`. Bounded per request, and let go soon after it is over: the index of
owners remembers requests by the ten thousand, and must not keep with each of them what it read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, get_args

from isolation_monitor.telemetry.context import CURRENT, RequestContext

StoreKind = Literal["sql", "kv", "http"]

FETCHED_LIMIT: Final = 200
"""Reads kept per request; a request that reads more is said to have fetched everything (`OVERFLOW`), and keeps none of them."""
ROWS_LIMIT: Final = 10_000
"""The same for the rows of one read: an export that is streamed row by row must not pile up here."""

KEPT_S: Final = 5.0
KEPT_REQUESTS: Final = 500
"""A request's reads are kept for so long after its end, and of at most so many requests: what it left running may still send
what it has read."""


class Fetched(NamedTuple):
    """One read of a request: `key` is the SQL parameters, the cache key or the URL; `values` rows, a reply or a body."""

    store: StoreKind
    where: str
    key: object
    values: object


TEXTS_DEPTH: Final = 5
TEXTS_WIDTH: Final = 200
OVERFLOW: Final = Fetched("sql", "", None, None)
_LET_GO: Final[dict[StoreKind, Fetched]] = {store: Fetched(store, "", None, None) for store in get_args(StoreKind)}
"""What stands for a read whose values were let go: evidence still tells how often a request read from which stores."""


class Stores:
    """The one door through which store clients tell what passes. Never raises into them: callers guard with try."""

    def __init__(self) -> None:
        self.is_on = True
        """False while the monitor is off: a hook that somebody wrapped stays in place, and must do nothing."""
        self.on_read: list[Callable[[RequestContext, Fetched], None]] = []
        """Called for each read of a request; for detectors that learn from the keys. Must be cheap."""
        self._over: deque[tuple[float, RequestContext]] = deque()
        """Requests that are over and whose reads are still kept, with the time of their end; `time.monotonic()`."""
        self.on_write: list[Callable[[RequestContext, Fetched], None]] = []

    def read(self, store: StoreKind, where: str, key: object, values: object, request: RequestContext | None = None) -> None:
        """Note what a read returned. `values` is kept by reference and must not be consumed by being looked at."""
        request = request or CURRENT.get()
        if not self.is_on or request is None or request.finished:
            return
        read = Fetched(store, where, key, values)
        if type(values) is list and len(values) > ROWS_LIMIT:
            self.overflowed(request)
        elif request.fetched is None:
            request.fetched = [read]
        elif len(request.fetched) >= FETCHED_LIMIT:
            self.overflowed(request)
        elif request.fetched[-1] is not OVERFLOW:
            request.fetched.append(read)
        for listener in self.on_read:
            listener(request, read)

    def overflowed(self, request: RequestContext) -> None:
        """Take it that a request has fetched everything: what it did read says no more than that, and is let go."""
        fetched = request.fetched or []
        if not fetched or fetched[-1] is not OVERFLOW:
            request.fetched = [*_let_go(fetched[: FETCHED_LIMIT - 1]), OVERFLOW]

    def over(self, request: RequestContext) -> None:
        """Take a request with reads that is over: what it read is let go a moment later."""
        now = time.monotonic()
        self._over.append((now, request))
        self.let_go(now)

    def let_go(self, now: float) -> None:
        """Let go what requests have read that were over a while ago, unless a run of theirs still goes on; `time.monotonic()`."""
        over = self._over
        for _ in range(len(over)):
            try:
                ended, request = over.popleft()
            except IndexError:  # Another thread was faster.
                return
            if len(over) < KEPT_REQUESTS and now - ended < KEPT_S:
                over.appendleft((ended, request))
                return
            if request.open_runs and len(over) < KEPT_REQUESTS:
                over.append((now, request))
            elif request.fetched is not None:
                request.fetched = _let_go(request.fetched)

    def written(self, store: StoreKind, where: str, key: object, values: object, request: RequestContext | None = None) -> None:
        """Note what is handed to a store, before it is."""
        request = request or CURRENT.get()
        if not self.is_on or request is None or request.finished or not self.on_write:
            return
        for listener in self.on_write:
            listener(request, Fetched(store, where, key, values))


def _let_go(reads: list[Fetched]) -> list[Fetched]:
    return [read if read is OVERFLOW else _LET_GO[read.store] for read in reads]


def was_fetched(request: RequestContext, token: str, stores: Iterable[StoreKind] = ("sql",)) -> bool:
    """Return whether a read of the request from one of `stores` carried `token`, as text or inside a text.

    Looks at plain built-in values and their containers only, so no code of the host runs.
    """
    raw = token.encode("utf-8", "surrogatepass")
    return any(read is OVERFLOW or (read.store in stores and _carries(read.values, token, raw, 0)) for read in request.fetched or ())


def texts_in(value: object, depth: int = 0) -> Iterator[str]:
    """Return the texts inside a plain value, its containers and instances, looked at raw; at most some thousands of them."""
    kind = type(value)
    if kind is str:
        yield value  # type: ignore[misc]  # an exact str
    elif kind in (bytes, bytearray):
        yield value.decode("utf-8", "replace")  # type: ignore[attr-defined]  # exact bytes
    elif kind is int:
        yield str(value)
    elif depth >= TEXTS_DEPTH or value is None:
        return
    elif kind is dict:
        for item in list(value.values())[:TEXTS_WIDTH]:  # type: ignore[attr-defined]  # an exact dict
            yield from texts_in(item, depth + 1)
    elif kind in (list, tuple, set, frozenset):
        for item in list(value)[:TEXTS_WIDTH]:  # type: ignore[call-overload]  # an exact container
            yield from texts_in(item, depth + 1)
    elif isinstance(value, tuple):
        for item in list(tuple.__iter__(value))[:TEXTS_WIDTH]:
            yield from texts_in(item, depth + 1)
    elif kind.__module__ == "uuid":
        yield str(value)
    else:
        try:
            fields = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return
        if type(fields) is dict:
            yield from texts_in(fields, depth + 1)


def _carries(value: object, token: str, raw: bytes, depth: int) -> bool:
    kind = type(value)
    if kind is str:
        return token in value  # type: ignore[operator]  # an exact str
    if kind in (bytes, bytearray):
        return raw in value  # type: ignore[operator]  # exact bytes
    if value is None or kind in (int, float, bool) or depth > 6:
        return kind is int and token.isdigit() and str(value) == token
    if kind is dict:
        return any(_carries(item, token, raw, depth + 1) for pair in list(value.items()) for item in pair)  # type: ignore[attr-defined]  # an exact dict
    if kind in (list, tuple, set, frozenset):
        return any(_carries(item, token, raw, depth + 1) for item in list(value))  # type: ignore[call-overload]  # an exact container
    return _carries_other(value, token, raw, depth)


def _carries_other(value: Any, token: str, raw: bytes, depth: int) -> bool:
    # Rows of drivers and ORMs: tuples by inheritance, UUIDs and the like by what they print as when they are the standard library's.
    module = type(value).__module__
    if module in ("uuid", "datetime", "decimal"):
        return token.replace("-", "").lower() == str(value).replace("-", "").lower()
    if isinstance(value, tuple):
        return any(_carries(item, token, raw, depth + 1) for item in tuple.__iter__(value))
    if module.startswith("asyncpg") and type(value).__name__ == "Record":
        return any(_carries(item, token, raw, depth + 1) for item in value.values())
    return False
