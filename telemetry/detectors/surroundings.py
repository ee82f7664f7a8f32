"""Surroundings: where in a text a value stands, and which endpoint gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.principals import Scope

NEAR: Final = 400
"""Characters around a value of a page within which its author's name attributes it."""


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


def surroundings(text: str, token: str, owner: str) -> tuple[bool, bool]:
    """Return whether the token stands in an item of a JSON list, and whether that object (or the whole text) names the owner."""
    at = text.find(token)
    opened = text.rfind("{", 0, at)
    if opened < 0:
        # A page or a plain text: its owner is named with it, or somewhere else.
        return text.lstrip().startswith("<"), bool(owner) and owner in text[max(0, at - NEAR) : at + NEAR]
    before = text[max(0, opened - 20) : opened].rstrip()
    in_list = before.endswith(("[", ",")) or text.rfind("[", opened, at) > text.rfind("]", opened, at)
    closed = text.find("}", at)
    return in_list, bool(owner) and owner in text[opened : closed if closed >= 0 else len(text)]
