"""What a kind of violation means and what to do about it first: the words that stand beside the evidence."""

from __future__ import annotations

import importlib
from typing import Final

from isolation_monitor.telemetry import names

FIRST_STEPS: Final[dict[str, str]] = {
    names.INHERITED_CONTEXT: (
        "Start each request in a context of its own; look for a server, pool or worker task that keeps its first context."
    ),
    names.FOREIGN_CONTEXT: "Move the shared place into the request: a ContextVar that is set at entry, an argument, or `request.state`.",
    names.INSTANCE_REUSE: (
        "Find what keeps the instance at the victim's line (a module global, a cache, a default argument) and make one a request."
    ),
    names.SHARED_STATE: "Key the shared place by its owner, or move it into the request; the resource names the place.",
    names.WRONG_SOCKET: (
        "Compare where the offender's line takes the connection from with where the run keeps its owner; address events by owner."
    ),
    names.FOREIGN_IDENTITY: (
        "Follow the named field back from the offender's answer to where its value was taken; the detail may name the cause."
    ),
    names.FOREIGN_CONTENT: (
        "Follow the value back from the offender's answer: which cache, buffer or object did it come from, and under which key?"
    ),
    names.CANARY: "Find the query or cache that returned the planted value to another tenant: its filter or its key misses the tenant.",
    names.FOREIGN_CREDENTIAL: (
        "Give the outgoing call its credential by argument; look for headers or cookies that are set on a shared client."
    ),
    names.SHARED_CONNECTION: "Give each request a session or connection of its own; look for one kept in a global or handed to a task.",
    names.DIRTY_HANDOVER: (
        "Reset the connection before it goes back (rollback, DISCARD ALL), or close it when a request was cancelled on it."
    ),
    names.UNSCOPED_ACCESS: "Add the owner to the query at the offender's line, or say why it reads all: `with monitor.unscoped(reason)`.",
    names.CACHE_OWNER: "Put the owner (user, tenant) into the cache's key at the offender's line.",
    names.FOREIGN_TASK: (
        "Do not let work of one user wait in another's task; pass what it needs as arguments and start it in its own context."
    ),
    names.TASK_LEAK: (
        "Keep a reference to the task at the offender's line and cancel or await it when the request ends (a TaskGroup does both)."
    ),
    names.SESSION_LEAK: "Close the session on every path at the offender's line: `async with`, or `finally`.",
    names.SLOW_CREATION: "Move what is slow (files, network, imports) out of the factory, to the start of the service.",
    names.INCOMPLETE_RUN: "Look for an exception or a return on the way to the missing event; send an error event when a run fails.",
    names.STUCK_RUN: (
        "Give what the run awaits at the victim's innermost line a time limit (`asyncio.timeout`), and end the run with an error event."
    ),
    names.BAD_HANDSHAKE: (
        "Take the user from the handshake's own credential at the offender's line, refuse who has none, and make connection ids yourself."
    ),
    names.UNROUTED_EVENT: (
        "Ask at the victim's line whether the user is still there before a run is started or goes on, or keep its events for his return."
    ),
    names.LOOP_STALL: (
        "Take the blocking call at the offender's line off the event loop: `await asyncio.to_thread(...)`, or an async client."
    ),
    names.STARVATION: (
        "Hold the resource for less at the offender's line, or give each user a share of it; never await a slow call while holding it."
    ),
    names.RESOURCE_TREND: (
        "Compare what is alive now with an hour ago; look for a table without a limit, or for things that are never closed."
    ),
    names.ID_RESOLUTION: (
        "Ask each source of the detail for the run: which of them is wrong, and who wrote it there? The registry keeps who told it first."
    ),
}
_RUNBOOKS: Final[dict[str, str]] = {
    names.WRONG_SOCKET: "WebSocketIsolationViolation",
    names.SESSION_LEAK: "SessionLeak",
    names.INCOMPLETE_RUN: "RunIncomplete",
    names.STUCK_RUN: "RunStuck",
    names.UNROUTED_EVENT: "EventsUnrouted",
    names.BAD_HANDSHAKE: "WebSocketUserContextBad",
    names.LOOP_STALL: "LoopStall",
    names.STARVATION: "ContainmentBelow100",
    names.TASK_LEAK: "ResourceTrend",
    names.RESOURCE_TREND: "ResourceTrend",
    names.SLOW_CREATION: "InstanceCreationSlow",
}
_MODULES: Final = {
    names.INCOMPLETE_RUN: "isolation_monitor.telemetry.delivery.run",
    names.STUCK_RUN: "isolation_monitor.telemetry.delivery.stuck_run",
    names.UNROUTED_EVENT: "isolation_monitor.telemetry.delivery.routes",
    names.BAD_HANDSHAKE: "isolation_monitor.telemetry.delivery.handshakes",
}


def meaning(kind: str) -> str:
    """Return what a kind of violation is, in a sentence: the first of its detector's documentation. Empty for unknown kinds."""
    if kind not in names.KIND_GRADES:
        return ""
    module = importlib.import_module(_MODULES.get(kind, f"isolation_monitor.telemetry.detectors.{kind}"))
    return " ".join((module.__doc__ or "").split("\n\n")[0].split())


def first_step(kind: str) -> str:
    """Return what to do first; a kind that only a newer version knows has the general advice."""
    return FIRST_STEPS.get(kind, "Compare the two sides: what did both requests reach, and at which line did each reach it?")


def runbook(kind: str, grade: str) -> str:
    """Return the name of the runbook; the collector serves it at `/runbooks/NAME`."""
    if kind == names.INSTANCE_REUSE and grade == "hygiene":
        return "SingletonReuse"
    if kind == names.ID_RESOLUTION:
        return "ResolutionBelow99" if grade == "hygiene" else "ResolutionConflict"
    return _RUNBOOKS.get(kind, "IsolationViolation")
