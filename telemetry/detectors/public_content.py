"""Public content: endpoints that show what users write for everybody, by the application's own word; and users' ids.

A board or a lobby that is kept in memory and names no authors looks the same as one history that all users share by mistake.
`monitor.public` tells them apart: what comes in at such an endpoint or leaves there is everybody's, wherever it turns up.
Credentials, and what was declared private, stay their owner's there as well.

The id of a user is public everywhere: senders, friends and members are named by it. That an answer means the wrong user by it
is the business of the detectors of identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.detectors.ownership import Origin
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.tokens import phrases_of, tokens_of, words_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.ownership import Ownership
    from isolation_monitor.telemetry.principals import Principal, Scope

IDS_LIMIT: Final = 10_000


class PublicContent:
    """Which endpoints were declared, and what has passed there. Called on the event loop."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self.endpoints: dict[int, object] = {}
        """By identity; empty where nothing was declared, so that requests cost nothing."""
        self._ids: dict[str, None] = {}

    def declare(self, endpoint: object) -> None:
        """Add an endpoint: the function, or class, that the router calls.

        Raises:
            SettingsError: `endpoint` cannot be called.
        """
        if not callable(endpoint):
            raise SettingsError(f"public() got {endpoint!r}: declare the function that the router calls, below the router's decorator")
        self.endpoints[id(endpoint)] = endpoint

    def serves(self, scope: Scope | None) -> bool:
        """Return whether a scope was routed to a declared endpoint."""
        return scope is not None and id(scope.get("endpoint")) in self.endpoints

    def receives(self, request: RequestContext) -> bool:
        """Return whether what a request, or its connection, sends goes to a declared endpoint."""
        return self.serves(request.scope if request.connection is None else request.connection.scope)

    def is_called(self, principal: Principal, request: RequestContext) -> None:
        """Take a principal's id as everybody's, unless it proves himself with it. Called for every request."""
        if principal.id in self._ids or principal.is_credential or principal.is_synthetic:
            return
        if len(self._ids) >= IDS_LIMIT:
            self._ids.clear()
        self._ids[principal.id] = None
        self.said(tokens_of(principal.id), request, principal)

    def said(self, tokens: Iterable[str], request: RequestContext, principal: Principal) -> None:
        """Take tokens that a user sent to such an endpoint, or that left there, as everybody's."""
        origin = Origin(request, principal, request.ingress)
        for token in tokens:
            self._ownership.publish(token, origin)

    def share(self, token: str) -> None:
        """Take a token that memory keeps for several principals as no single one's."""
        entry = self._ownership.get(token)
        if entry is not None:
            self._ownership.publish(token, entry.origin)

    def left(self, text: str, request: RequestContext, principal: Principal) -> None:
        """Take every token and phrase of a text that such an endpoint shows as everybody's."""
        words = words_of(text)
        self.said((*tokens_of(text, words), *phrases_of(text, words)), request, principal)
