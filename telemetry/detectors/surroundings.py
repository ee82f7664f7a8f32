"""Surroundings: where in a text a value stands, and which endpoint gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.ownership import Origin
    from isolation_monitor.telemetry.detectors.suspicion import Suspicion
    from isolation_monitor.telemetry.principals import Scope

NEAR: Final = 400
"""Characters around a value of a page within which its author's name attributes it."""
LEVELS_LIMIT: Final = 6
STEPS_LIMIT: Final = 50
"""Objects beside it that are passed over; a place among more is taken for one outside of any object."""


def endpoint_of(request: RequestContext, scope: Scope | None) -> object:
    """Return what stands for the endpoint: the router's function by identity, else the path."""
    if scope is not None:
        endpoint = scope.get("endpoint")
        return id(endpoint) if endpoint is not None else scope.get("path")
    connection = request.connection
    if connection is not None:
        endpoint = connection.scope.get("endpoint")
        return id(endpoint) if endpoint is not None else connection.scope.get("path")
    served = request.served
    return id(served.endpoint) if served is not None else None


def spoken_to(suspicion: Suspicion) -> object | None:
    """Return the endpoint that took what a suspicion is about from its owner; None for what nobody said, and where no router tells."""
    source = suspicion.entry.origin.request
    return None if suspicion.entry.how != "ingress" or source is None else _endpoint_used(source)


def place_of(origin: Origin) -> object | None:
    """Return what stands for where a request went: its endpoint, and without a router its path; None for a connection's messages."""
    return None if origin.request is None else _place_of(origin.request)


def is_part_of_page(suspicion: Suspicion) -> bool:
    """Return whether an answer carries what the same endpoint gave the owner before his code passed it on: so it gives it to all."""
    entry, request = suspicion.entry, suspicion.request
    if entry.how != "passed" or suspicion.where != "the answer":
        return False
    place = place_of(entry.origin)
    return place is not None and place == _place_of(request)


def _place_of(request: RequestContext) -> object | None:
    return None if request.connection is not None else _endpoint_used(request) or getattr(request.ingress, "path", None)


def _endpoint_used(request: RequestContext) -> int | None:
    """Return the identity of the endpoint that served a request which may be over; None where no router tells, and for messages."""
    if request.connection is not None:
        return None
    endpoint = request.served.endpoint if request.scope is None and request.served is not None else (request.scope or {}).get("endpoint")
    return id(endpoint) if endpoint is not None else None


def headers_name(request: RequestContext, id: str) -> bool:
    """Return whether a request names a principal by a header of its own: `X-Act-As`, `X-On-Behalf-Of`."""
    scope = request.scope if request.connection is None else request.connection.scope
    if scope is None:
        return False
    wanted = id.encode("utf-8", "replace")
    return any(value == wanted for name, value in scope["headers"] if name not in (b"authorization", b"cookie"))


def surroundings(text: str, token: str, owner: str) -> tuple[bool, bool]:
    """Return whether the token stands in an item of a JSON list, and whether that item (or the whole text) names the owner.

    Outside of lists, whether the object that it stands in does.
    """
    at = text.find(token)
    first, item = _objects_around(text, at)
    if first is None:
        # A page or a plain text: its owner is named with it, or somewhere else.
        return text.lstrip().startswith("<"), bool(owner) and owner in text[max(0, at - NEAR) : at + NEAR]
    return item is not None, bool(owner) and owner in (item or first)


def item_around(text: str, token: str) -> str | None:
    """Return the item of a JSON list, or the object with a list of values, that a token stands in; None outside of lists."""
    return _objects_around(text, text.find(token))[1]


def object_around(text: str, token: str) -> str | None:
    """Return the innermost object of a JSON text that a token stands in; None outside of objects."""
    return _objects_around(text, text.find(token))[0]


def _objects_around(text: str, at: int) -> tuple[str | None, str | None]:
    """Return the object that a place of a JSON text lies in, and the nearest around it that is an item of a list or has one."""
    first: str | None = None
    start = end = at
    for _ in range(LEVELS_LIMIT):
        start = _opening(text, start)
        if start < 0:
            break
        end = _closing(text, end)
        found = text[start:end]
        if first is None:
            first = found
        before = text[max(0, start - 20) : start].rstrip()
        if before.endswith(("[", ",")) or text.rfind("[", start, at) > text.rfind("]", start, at):
            return first, found
    return first, None


def _opening(text: str, at: int) -> int:
    """Return where the object that a place lies in opens, -1 for none. Objects that are closed before the place are passed over."""
    closed = 0
    for _ in range(STEPS_LIMIT):
        opened = text.rfind("{", 0, at)
        if opened < 0:
            return -1
        closed += text.count("}", opened, at)
        if closed == 0:
            return opened
        closed -= 1
        at = opened
    return -1


def _closing(text: str, at: int) -> int:
    """Return the place after the end of that object, or of the text."""
    opened = 0
    for _ in range(STEPS_LIMIT):
        closed = text.find("}", at)
        if closed < 0:
            return len(text)
        opened += text.count("{", at, closed)
        at = closed + 1
        if opened == 0:
            return at
        opened -= 1
    return at
