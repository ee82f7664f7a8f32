"""What is known of the credentials met: who sent one, who came in with it, which answer gave it, and so whose it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import stacks
from isolation_monitor.telemetry.context import RequestContext, clock
from isolation_monitor.telemetry.detectors import credentials as reading
from isolation_monitor.telemetry.provenance import was_fetched

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from isolation_monitor.telemetry.detectors.credentials import Credential, Headers
    from isolation_monitor.telemetry.principals import Principal

EARLY_LIMIT: Final = 4
"""Calls remembered of a credential whose owner is not proven yet."""
HOSTS_LIMIT: Final = 4

_PARTS: Final = re.compile(r"[/?&=]")


class Act:
    """A request sent a credential: what has to be known of that when it is judged later, the request being over by then."""

    __slots__ = ("host", "name", "request", "said", "stack", "value_chosen")

    def __init__(self, request: RequestContext, host: str, credential: Credential, skip: int) -> None:
        self.request = request
        self.host = host
        self.name = credential.name
        self.stack = stacks.capture(skip + 1)
        self.said = said_by(request)
        value = credential.value
        # Who looks a credential up in the database, or is asked for by it, has chosen whose it is.
        self.value_chosen = was_fetched(request, value, ("sql",)) or (len(value) >= 4 and (value in self.said or _is_said(request, value)))

    def is_on_purpose(self, owner: Principal) -> bool:
        """Return whether the request was made to act on what is the owner's: its own path or query names him."""
        return self.value_chosen or reading.names(self.said, owner.id) or owner.id in _PARTS.split(self.said)


class Call:
    """One outgoing call. `headers` and `body` are the client's own objects, looked at again only if the answer gives something."""

    __slots__ = ("body", "credentials", "headers", "host", "keys", "method", "request", "suspects", "url")

    def __init__(self, request: RequestContext, method: str, host: str, url: str, headers: Headers, body: object) -> None:
        self.request = request
        self.method = method
        self.host = host
        self.url = url
        self.headers = headers
        self.body = body
        self.credentials: list[Credential] = []
        self.keys: list[int] = []
        self.suspects: list[tuple[Known, Act]] | None = None

    @property
    def path(self) -> str:
        return self.url.partition("?")[0]

    @property
    def text(self) -> str:
        """What the call says in its URL and its body."""
        return f"{self.url} {self.body_text}"

    @property
    def body_text(self) -> str:
        return text_of(self.body)


class Known:
    """What is known of one credential. `proof` is how its owner was proven, `minted` the call whose answer gave it."""

    __slots__ = ("early", "first_seen", "is_login", "is_shared", "looks", "minted", "named", "origin", "outside", "owner", "proof", "stack")

    def __init__(self) -> None:
        self.first_seen = clock()
        self.owner: Principal | None = None
        self.origin: RequestContext | None = None
        self.stack: stacks.RawStack = ()
        self.proof = ""
        self.is_shared = False
        self.outside: tuple[str, ...] = ()
        """The hosts that calls outside of requests sent it to."""
        self.minted: tuple[str, str] | None = None
        self.is_login = False
        self.named: Principal | None = None
        self.looks = 0
        self.early: list[Act] = []
        """The first calls that carried it while its owner was unknown."""

    def is_owned(self, by: Principal, origin: RequestContext | None, proof: str) -> None:
        self.owner = by
        self.origin = origin or self.origin
        self.proof = proof

    @property
    def holder(self) -> Principal | None:
        """Whose it is, as far as that is proven, else to whose call it was given."""
        return self.owner or (self.origin.principal if self.minted is not None and self.origin is not None else None)

    def is_in_use_by_others(self, principal: Principal) -> bool:
        """Return whether it may have been sent for anybody but `principal` while its owner was unknown."""
        return len(self.early) >= EARLY_LIMIT or any(
            act.request.principal is None or act.request.principal.id != principal.id for act in self.early
        )

    def share(self) -> None:
        """It is the service's own, or of several: nobody's for ever."""
        self.is_shared = True
        self.owner = None
        self.early.clear()


class Family:
    """The values that one host gets under one name, as far as they name principals."""

    __slots__ = ("first", "is_proven", "waiting")

    def __init__(self, first: Principal) -> None:
        self.first = first
        self.waiting: list[Known] = []
        self.is_proven = False


def scope_of(request: RequestContext) -> MutableMapping[str, Any] | None:
    """Return the scope of a request; of a message whose connection is still there, the handshake's."""
    return request.scope if request.scope is not None or request.connection is None else request.connection.scope


def is_over(request: RequestContext) -> bool:
    """Return whether what runs in the request's context is no longer the request.

    A caller in the same process that awaits the application directly keeps its context, and goes on with its own affairs
    in it. What was started for a message goes on as long as its connection.
    """
    return request.finished and (request.connection is None or request.connection.closed)


def said_by(request: RequestContext) -> str:
    scope = scope_of(request)
    return "" if scope is None else f"{scope.get('path', '')}?{scope.get('query_string', b'').decode('latin-1')}"


def text_of(value: object) -> str:
    """Return a text or bytes as text, at its first 64 KiB; nothing of anything else."""
    if isinstance(value, str):
        return value[:65_536]
    return bytes(value[:65_536]).decode("latin-1") if isinstance(value, bytes | bytearray) else ""


def _is_said(request: RequestContext, value: str) -> bool:
    values = getattr(request.ingress, "values", None)
    return type(values) is set and value in values
