"""Puts a resolver together: what `monitor.resolution(...)` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.resolution import own_connections
from isolation_monitor.telemetry.resolution.outcomes import AffectedUsers, Counts
from isolation_monitor.telemetry.resolution.ownership import Access, Ownership
from isolation_monitor.telemetry.resolution.patterns import Patterns
from isolation_monitor.telemetry.resolution.registry import MemoryRegistry, Registry
from isolation_monitor.telemetry.resolution.resolver import CONNECTION, ORCHESTRATOR, REGISTRY, Parts, Resolver
from isolation_monitor.telemetry.resolution.sources import Source, read_entry, read_owner, read_thread
from isolation_monitor.telemetry.resolution.threads import Threads

if TYPE_CHECKING:
    from isolation_monitor.telemetry.monitor import IsolationMonitor

Function = Callable[[str], Any]
"""Sync or async. Any: the answer is checked when it comes."""


def declare_resolution(
    monitor: IsolationMonitor,
    *,
    registry: Registry | None = None,
    orchestrator: Function | None = None,
    connections: Function | None = None,
    owner_of: Function | None = None,
    access: Access | None = None,
    thread_shape: str | None = None,
    patterns: Iterable[str] = (),
    thread_parameter: str = "thread_id",
) -> Resolver:
    """Declare how the ids of runs are resolved to their threads; returns what makes, registers and resolves them (docs/ids.md).

    Args:
        registry: where runs are kept; by default in this process's memory, 100,000 runs for a day.
        orchestrator: `orchestrator(run_id)`, sync or async, gives the thread's id, a pair of thread and owner, or None.
        connections: the same, asked of the application's own connection manager; by default the monitor's connections are looked at.
        owner_of: `owner_of(thread_id)`, sync or async, gives the owner's id, or None when there is no such thread.
        access: `access(user_id, thread_id)`, true when a user may see a thread that is another's. It must wait for nothing.
        thread_shape: regular expression of the application's thread ids, which makes the reading of foreign ids sure.
        patterns: regular expressions of the application's own run ids, each with a group `thread`.
        thread_parameter: what names the thread in the address of a WebSocket.

    Raises:
        SettingsError: an argument cannot be used.
    """
    for name, function in (("orchestrator", orchestrator), ("connections", connections), ("owner_of", owner_of), ("access", access)):
        if function is not None and not callable(function):
            raise SettingsError(f"resolution({name}=…) got {type(function).__qualname__}: pass a function")
    timeout_s = monitor.settings.resolution_timeout_s
    if timeout_s <= 0:
        raise SettingsError(f"resolution_timeout_s={timeout_s:g} leaves no time to answer: use a number above 0, such as 0.5")
    known = registry or MemoryRegistry(monitor.settings.remembered_limit)
    if not all(callable(getattr(known, method, None)) for method in ("peek", "get", "put")):
        raise SettingsError(f"resolution(registry=…) got {type(known).__qualname__}: pass a MemoryRegistry or a SqlRegistry")
    counts = Counts(monitor.registry)
    detector = monitor.detection.id_resolution

    def source(
        name: str, function: Callable[..., Any], read: Callable[[Any], Any], *, is_counted: bool = True, is_async: bool | None = None
    ) -> Source:
        # Threads of its own: a source that hangs must not use up those of the next.
        made = Source(name, function, read, timeout_s, Threads(), lambda: monitor.loop, is_async=is_async)
        if is_counted:
            made.on_answer.append(counts.answered)
        return made

    def optional(name: str, function: Function | None, read: Callable[[Any], Any]) -> Source | None:
        return None if function is None else source(name, function, read)

    resolver = Resolver(
        Parts(
            registry=known,
            read_registry=source(REGISTRY, known.get, read_entry, is_async=known.is_async),
            write_registry=source(REGISTRY, known.put, read_entry, is_counted=False, is_async=known.is_async),
            orchestrator=optional(ORCHESTRATOR, orchestrator, read_thread),
            connections=optional(CONNECTION, connections, read_thread),
            own_connections=own_connections.finder(lambda: monitor.runs.known, thread_parameter),
            owner_of=optional(names.ID_ASKED[-1], owner_of, read_owner),
            patterns=Patterns(thread_shape, tuple(patterns)),
            ownership=Ownership(counts, detector, monitor.housekeeper, access, monitor.ledger.internal_error),
            detector=detector,
            counts=counts,
            affected=AffectedUsers(),
            on_error=monitor.ledger.internal_error,
            verify_every=monitor.settings.resolution_verify_every,
        )
    )
    monitor.housekeeper.every_second(lambda _: resolver.tick())
    return resolver
