"""The monitor's own connections as a source: the thread that a run's WebSocket names in its address, and the run's owner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

from isolation_monitor.telemetry.resolution.sources import is_id


class _Principal(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def is_credential(self) -> bool: ...


class _Connection(Protocol):
    @property
    def scope(self) -> MutableMapping[str, Any]: ...


class _Run(Protocol):
    @property
    def owner(self) -> _Principal | None: ...
    @property
    def connection(self) -> _Connection | None: ...


def finder(known: Callable[[], Mapping[str, _Run]], parameter: str) -> Callable[[str], tuple[str, str | None] | None]:
    """Return a function from a run's id to (thread, owner): for runs begun by `monitor.run` on a connection whose path or query has
    the parameter, `/ws/{thread_id}` or `/ws?thread_id=…`; None for all others.
    """  # fmt: skip
    key = parameter.encode()

    def find(run_id: str) -> tuple[str, str | None] | None:
        run = known().get(run_id)
        if run is None or run.connection is None:
            return None
        thread = _thread_of(run.connection.scope, parameter, key)
        if thread is None:
            return None
        owner = run.owner
        return thread, (None if owner is None or owner.is_credential else owner.id)

    return find


def _thread_of(scope: MutableMapping[str, Any], parameter: str, key: bytes) -> str | None:
    # Exact types: a scope is the host's, and nothing of it is called.
    path = scope.get("path_params")
    value = path.get(parameter) if type(path) is dict else None
    if value is None:
        query = scope.get("query_string")
        if type(query) is bytes and key in query and len(query) <= 4_096:
            named = [one for name, one in parse_qsl(query.decode("latin-1")) if name == parameter]
            # Twice is once too often to know which.
            value = named[0] if len(named) == 1 else None
    return value if is_id(value) else None
