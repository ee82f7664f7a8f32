"""What a record says beside the finding itself: the last events of each side's request, its task and trace, the process, who is affected.

Nothing is noted while requests run: events are told at report time from what the request keeps anyway. No raw value leaves:
names that the host chose (of tasks, for one) may hold users' ids and stay here; code, numbers and times go out.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor import __version__
from isolation_monitor.telemetry import stacks

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.settings import Settings
    from isolation_monitor.telemetry.switches import Switches
    from isolation_monitor.telemetry.violations import Violation

Json = dict[str, Any]  # Any: JSON

EVENTS_LIMIT: Final = 16
"""Events told of one request: the first ones say how it began, the last ones what was found on it."""
AFFECTED_LIMIT: Final = 1_000
"""Principals, and runs, that are told apart for one fingerprint in a minute."""
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_OWN_TASK_NAME: Final = re.compile(r"Task-\d{1,12}")
_INVALID: Final = ("0" * 32, "0" * 16)


def events_of(request: RequestContext) -> list[tuple[float | None, str]]:
    """Return what is known of a request's course, as (Unix seconds or None, what), in its order; at most 16.

    The time is None where only the fact is kept. Empty where it cannot be told: a finding must not be lost for it.
    """
    try:
        return _told(request)
    except Exception:
        return []


def endpoint_of(request: RequestContext) -> str | None:
    """Return where the endpoint that serves a request is defined, as `file:line function`."""
    lines = stacks.render(request.endpoint_stack)
    return lines[-1] if lines else None


def trace_of(request: RequestContext) -> tuple[str, str] | None:
    """Return trace and span id that the caller sent in `traceparent` (W3C Trace Context); None once the request is over."""
    headers = (request.scope or {}).get("headers")
    if type(headers) is not list and type(headers) is not tuple:
        # Anything else might be an iterator, which looking would use up.
        return None
    for name, value in headers:
        if name == b"traceparent":
            found = _TRACEPARENT.fullmatch(value)
            return (found[1].decode(), found[2].decode()) if found else None
    return None


def current_trace() -> tuple[str, str] | None:
    """Return trace and span id of OpenTelemetry's current span; None where it is not in use."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        context = trace.get_current_span().get_span_context()
        found = (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    except Exception:
        # Spans are the host's objects: one that cannot be asked has no ids.
        return None
    return None if found[0] == _INVALID[0] or found[1] == _INVALID[1] else found


def current_task() -> str | None:
    """Return the running task as `Task-12 handler #7f31…`: asyncio's own name, the coroutine's code and the task's identity.

    A name that the host gave is left out: it may hold a user's id.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else task_name(task)


def task_name(task: asyncio.Task[Any]) -> str:
    """Return a task as `current_task` does; from any thread."""
    name = task.get_name() if type(task) is asyncio.Task else ""
    code = getattr(task.get_coro(), "cr_code", None) if type(task) is asyncio.Task else None
    parts = (name if _OWN_TASK_NAME.fullmatch(name) else "", getattr(code, "co_qualname", ""), f"#{id(task):x}")
    return " ".join(part for part in parts if part)


class About:
    """Which code, and which configuration, a record comes from. One per monitor."""

    def __init__(self, settings: Settings, switches: Switches) -> None:
        self._settings = settings
        self._switches = switches
        self._revision = settings.revision or _service_version()

    def as_record(self) -> Json:
        differs = [
            f"{one.detector}={one.mode}" + (f"@{one.share:g}" if one.share != 1.0 else "")
            for one in self._switches
            if one.mode != "monitor" or one.share != 1.0
        ]
        return {
            "revision": self._revision,
            "configuration": {
                "mode": self._settings.mode,
                "detectors": differs,
                "version": __version__,
                "python": platform.python_version(),
                "pid": os.getpid(),
            },
        }


class Affected:
    """Whom the violations of one fingerprint touched in its minute: distinct principals and runs on either side."""

    __slots__ = ("active", "principals", "runs")

    def __init__(self) -> None:
        self.principals: set[str] = set()
        self.runs: set[str] = set()
        self.active = 0
        """The most principals with something live at the time of one of the violations."""

    def add(self, violation: Violation, active: int) -> None:
        self.active = max(self.active, active)
        for side in (violation.victim, violation.offender):
            if side is not None:
                _add(self.principals, side.principal)
                _add(self.runs, side.run_id)

    def as_record(self, *, names_them: bool) -> Json:
        """`names_them` adds the hashes: for the record that stands for many, whose sides name two of them only."""
        record: Json = {
            "principals": len(self.principals),
            "runs": len(self.runs),
            "active": max(self.active, len(self.principals)),
            "at_least": len(self.principals) >= AFFECTED_LIMIT,
        }
        if names_them:
            record["hashes"] = sorted(self.principals)
        return record


def _told(request: RequestContext) -> list[tuple[float | None, str]]:
    entered = _unix(request.started)
    held = [] if request.checkouts is None else list(request.checkouts.values())
    events: list[tuple[float | None, str]] = [(entered, f"entered over {request.transport}")]
    events += [(_unix(one.since), f"took a connection of {one.pool}, still out") for one in sorted(held, key=lambda one: one.since)[-4:]]
    reads = [read.store for read in request.fetched or ()]
    events += [(None, f"read from {store}, {reads.count(store)} times") for store in sorted(set(reads))]
    if request.open_runs:
        events.append((None, "1 run is open" if request.open_runs == 1 else f"{request.open_runs} runs are open"))
    if request.status:
        events.append((None, f"answered {request.status}" + (", to the last byte" if request.responded else "")))
    if request.failed:
        events.append((None, "failed with an exception of the application"))
    if request.finished:
        events.append((None, "was over"))
    found = [(one.time, f"violation {one.kind} ({one.grade}) {one.id}") for one in request.violations or ()]
    return [*events, *found[-(EVENTS_LIMIT - len(events)) :]][:EVENTS_LIMIT]


def _add(known: set[str], one: str | None) -> None:
    if one is not None and len(known) < AFFECTED_LIMIT:
        known.add(one)


def _unix(perf_counter_s: float) -> float:
    return time.time() - (time.perf_counter() - perf_counter_s)


def _service_version() -> str | None:
    """Return `service.version` of OpenTelemetry's resource attributes, which many deployments set anyway."""
    for item in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, _, value = item.partition("=")
        if name.strip() == "service.version" and value.strip():
            return value.strip()[:100]
    return None
